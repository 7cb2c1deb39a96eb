;; Judges registrations and lookups of a run by Knossos, a checker that is not ours.
;;
;; The state of a user is the set of its live connections, and the sessions that are over. A step is possible where its answer is right;
;; one without an answer is always possible, because it may have been refused. `jepsen/src/check/user.rs` says the same in Rust.
;;
;;   java -cp $KNOSSOS clojure.main jepsen/knossos/lease_register.clj FOLDER/history.edn
;;
;; KNOSSOS is a class path: Clojure 1.11 or later with spec.alpha and core.specs.alpha, the `src` of github.com/jepsen-io/knossos, and what
;; that needs to search: math.combinatorics, tools.logging, potemkin (with clj-tuple and riddley), slingshot, multiset. Debian has all
;; but the last (libclojure-java, libpotemkin-clojure, ...); inside a project of Leiningen `[knossos "0.3.13"]` brings everything.
;; Exit code: 0 if every user has an order, 1 otherwise.

(ns lease-register
  (:require [clojure.edn :as edn]
            [clojure.string :as str]
            [knossos.model :as model]
            [knossos.wgl :as wgl])
  (:import [knossos.model Model]))

(defn epoch-of [id]
  (Long/parseLong (second (str/split id #"-"))))

(defn wrong [op state]
  (model/inconsistent (str (:f op) " " (:value op) " in " state)))

(defrecord LeaseRegister [live over]
  Model
  ;; Taken apart by hand: Knossos' operations are no maps to `let`.
  (step [this op]
    (case (:f op)
      :register
      (let [[id policy max granted superseded] (:value op)
            exclusive (= policy "newest_wins")
            fits (and (not (over (epoch-of id))) (or exclusive (< (count live) max)))
            after (assoc this :live (conj (if exclusive #{} live) id))]
        (cond
          (nil? granted) (if fits after this)
          (= granted :limit) (if (and (not exclusive) (>= (count live) max)) this (wrong op this))
          (and fits (= (set superseded) (if exclusive live #{}))) after
          :else (wrong op this)))

      :unregister
      (let [[id policy existed] (:value op)
            was (contains? live id)
            ;; One that lost its place is still known until it is unregistered.
            known (and (= policy "newest_wins") (not was))]
        (if (or (nil? existed) (= existed was) (and existed known))
          (assoc this :live (disj live id))
          (wrong op this)))

      :lookup
      (if (or (nil? (:value op)) (= live (set (map first (:value op))))) this (wrong op this))

      :session-end
      (assoc this
             :live (set (remove #(= (:value op) (epoch-of %)) live))
             :over (conj over (:value op))))))

(def judged #{:register :unregister :lookup :session-end})

(defn of-users
  "The operations that are judged, by user."
  [history]
  (->> history
       (filter #(and (integer? (:process %)) (judged (:f %))))
       (group-by :key)))

(defn -main [file]
  (let [users (of-users (edn/read-string (slurp file)))
        verdicts (for [[user ops] (sort users)]
                   (let [ops (vec (map-indexed #(assoc %2 :index %1) ops))
                         found (wgl/analysis (->LeaseRegister #{} #{}) ops)]
                     (println user (count ops) "events, valid:" (:valid? found))
                     (when (false? (:valid? found)) (println "  " (:op found)))
                     (:valid? found)))
        verdicts (doall verdicts)]
    (println (count verdicts) "users," (count (remove true? verdicts)) "of them not valid")
    (System/exit (if (every? true? verdicts) 0 1))))

(-main (first *command-line-args*))
