//! Every algorithm and every refusal; keys that change; and bytes that are no tokens.

pub(crate) mod keys;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::keys::{SECRET, claims, ed25519, jwks, p256, p384, rsa, settings, token};
use super::*;
use crate::clock;
use crate::directory::{Handover, Per, Policy};
use crate::net::Listener;
use crate::net::http::{ServeLimits, serve};

/// A moment, milliseconds since 1970.
const NOW_MS: u64 = 1_900_000_000_000;

fn verifier(keys: KeySet) -> Verifier {
    with(settings(keys))
}

fn with(settings: Settings) -> Verifier {
    Verifier::new(settings, &Arc::from("test"))
}

fn with_secret() -> Verifier {
    verifier(KeySet::secret(SECRET).unwrap())
}

fn grant(claims: &Value) -> Result<Grant, Refused> {
    with_secret().check(&token(claims), NOW_MS)
}

#[test]
fn every_algorithm_is_taken_with_its_own_key_from_a_file_and_from_a_set() {
    let alice = claims(&json!({ "sub": "alice" }));
    for algorithm in ["HS256", "HS384", "HS512"] {
        let token = Minter::secret(SECRET, Some(algorithm)).unwrap().mint(&alice);
        assert_eq!(&*with_secret().check(&token, NOW_MS).unwrap().user, "alice", "{algorithm}");
    }
    let others = p256(9);
    for (pair, algorithms) in [
        (rsa(), &["RS256", "RS384", "RS512"][..]),
        (p256(1), &["ES256"]),
        (p384(1), &["ES384"]),
        (ed25519(1), &["EdDSA"]),
    ] {
        let mut keys = KeySet::public_pem(pair.public_pem.as_bytes()).unwrap();
        keys.add(KeySet::public_pem(others.public_pem.as_bytes()).unwrap());
        let of_file = verifier(keys);
        let of_set = verifier(KeySet::jwks(jwks(&[("b", &others), ("a", &pair)]).as_bytes(), false).unwrap());
        let by_default = Minter::private_pem(pair.private_pem.as_bytes(), None).unwrap();
        assert_eq!(by_default.algorithm(), algorithms[0]);
        for algorithm in algorithms {
            let minter = Minter::private_pem(pair.private_pem.as_bytes(), Some(algorithm)).unwrap();
            let minter = minter.key_id(Some(String::from("a")));
            let token = minter.mint(&alice);
            assert_eq!(&*of_file.check(&token, NOW_MS).unwrap().user, "alice", "{algorithm}");
            // A key of a set says which algorithm it is for.
            let taken = of_set.check(&token, NOW_MS);
            assert_eq!(taken.is_ok(), algorithm == &algorithms[0], "{algorithm}: {taken:?}");
            assert!(Minter::secret(SECRET, Some(algorithm)).is_err(), "a secret can't sign {algorithm}");
        }
        assert!(Minter::private_pem(pair.private_pem.as_bytes(), Some("HS256")).is_err());
        assert_eq!(KeySet::public_pem(pair.private_pem.as_bytes()).unwrap_err(), KeyError::Private);
        assert!(Minter::private_pem(pair.public_pem.as_bytes(), None).is_err(), "a public key signs nothing");
    }
}

#[test]
fn a_public_key_is_never_a_secret_and_nothing_is_taken_unsigned() {
    let alice = claims(&json!({ "sub": "alice" }));
    let pair = rsa();
    let with_rsa = verifier(KeySet::public_pem(pair.public_pem.as_bytes()).unwrap());
    let forged = Minter::secret(pair.public_pem.as_bytes(), None).unwrap().mint(&alice);
    assert_eq!(with_rsa.check(&forged, NOW_MS), Err(Refused::Algorithm));
    assert_eq!(with_rsa.check(&token(&json!({ "sub": "alice" })), NOW_MS), Err(Refused::Algorithm));
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let payload = part(json!({ "sub": "alice" }));
    let signature = token(&json!({ "sub": "alice" })).rsplit('.').next().unwrap().to_owned();
    for (head, refused) in [
        (json!({ "alg": "none" }), Refused::Algorithm),
        (json!({ "alg": "None" }), Refused::Algorithm),
        (json!({ "alg": "RS256" }), Refused::Algorithm),
        (json!({ "alg": "HS256", "crit": ["b64"] }), Refused::Algorithm),
        (json!({ "typ": "JWT" }), Refused::Malformed),
        (json!({ "alg": 7 }), Refused::Malformed),
        (json!(["HS256"]), Refused::Signature),
    ] {
        for token in
            [format!("{}.{payload}.", part(head.clone())), format!("{}.{payload}.{signature}", part(head.clone()))]
        {
            let outcome = with_secret().check(&token, NOW_MS);
            assert!(outcome == Err(refused.clone()) || outcome == Err(Refused::Malformed), "{head}: {outcome:?}");
        }
    }
    // A key set that is published holds no secrets.
    let secret = json!({ "keys": [{ "kty": "oct", "k": URL_SAFE_NO_PAD.encode(SECRET) }] }).to_string();
    assert_eq!(KeySet::jwks(secret.as_bytes(), false).unwrap_err(), KeyError::NoneUsable(1));
    let of_file = verifier(KeySet::jwks(secret.as_bytes(), true).unwrap());
    assert!(of_file.check(&token(&json!({ "sub": "alice" })), NOW_MS).is_ok());
}

#[test]
fn what_is_wrong_with_a_token_is_told_apart() {
    let seconds = NOW_MS / 1000;
    let mut strict = settings(KeySet::secret(SECRET).unwrap());
    strict.audience = vec![String::from("chat"), String::from("web")];
    strict.issuer = vec![String::from("https://id.example.com")];
    let strict = with(strict);
    let good =
        json!({ "sub": "a", "aud": ["x", "web"], "iss": "https://id.example.com", "exp": seconds + 1, "nbf": seconds });
    assert!(strict.check(&token(&good), NOW_MS).is_ok());
    let but = |claim: &str, value: Value| {
        let mut changed = good.clone();
        changed[claim] = value;
        strict.check(&token(&changed), NOW_MS).unwrap_err().reason()
    };
    for (claim, value, reason) in [
        ("aud", json!("other"), "audience"),
        ("aud", json!([]), "audience"),
        ("aud", Value::Null, "claim"),
        ("iss", json!("https://evil.example.com"), "issuer"),
        ("iss", json!(7), "claim"),
        ("exp", json!(seconds - 6), "expired"),
        ("exp", json!("soon"), "claim"),
        ("exp", json!(-1), "expired"),
        ("nbf", json!(seconds + 6), "not_yet_valid"),
        ("nbf", json!({}), "claim"),
        ("sub", Value::Null, "claim"),
        ("sub", json!(""), "claim"),
        ("sub", json!("a\u{0}"), "claim"),
        ("sub", json!("x".repeat(129)), "claim"),
        ("device", json!(1), "claim"),
        ("device", json!("x".repeat(129)), "claim"),
        ("meta", json!([]), "claim"),
        ("meta", json!({ "x": "y".repeat(5000) }), "claim"),
        ("topics", json!({}), "claim"),
        ("topics", json!([""]), "claim"),
        ("subscribe", json!(vec!["x"; 257]), "claim"),
        ("policy", json!("best"), "claim"),
        ("per", json!("device"), "claim"),
        ("max", json!(0), "claim"),
    ] {
        assert_eq!(but(claim, value.clone()), reason, "{claim} {value}");
    }
    let mut tampered = token(&good);
    let last = tampered.pop().unwrap();
    // The last character holds some bits that do not count; one in the middle counts whole.
    tampered.push(last);
    let middle = tampered.len() - 10;
    let other = if tampered.as_bytes()[middle] == b'A' { "B" } else { "A" };
    tampered.replace_range(middle..=middle, other);
    assert_eq!(strict.check(&tampered, NOW_MS), Err(Refused::Signature));
    let elsewhere = Minter::secret(b"another secret that is long enough", None).unwrap().mint(&claims(&good));
    assert_eq!(strict.check(&elsewhere, NOW_MS), Err(Refused::Signature));
    let long = token(&json!({ "sub": "a", "meta": { "x": "y".repeat(TOKEN_BYTES_MAX) } }));
    assert_eq!(strict.check(&long, NOW_MS), Err(Refused::TooLarge));
    for refused in [Refused::Malformed, Refused::Signature, Refused::Expired, Refused::Missing] {
        assert!(!refused.to_string().is_empty() && !refused.is_temporary());
    }
}

#[test]
fn a_little_difference_of_clocks_is_put_up_with() {
    let seconds = NOW_MS / 1000;
    let ends = |exp: f64| grant(&json!({ "sub": "a", "exp": exp })).map(|grant| grant.expires_ms);
    assert_eq!(grant(&json!({ "sub": "a" })).unwrap().expires_ms, None);
    assert_eq!(ends(seconds as f64 + 60.5), Ok(Some(NOW_MS + 60_500)));
    // Who comes a little late stays for as long as the clocks may differ.
    assert_eq!(ends(seconds as f64 - 3.0), Ok(Some(NOW_MS + 2_000)));
    assert_eq!(ends(seconds as f64 - 5.0), Err(Refused::Expired));
    assert_eq!(ends(1e300), Ok(Some(u64::MAX)));
    assert!(grant(&json!({ "sub": "a", "nbf": seconds + 5 })).is_ok());
}

#[test]
fn claims_become_what_is_granted() {
    let all = grant(&json!({
        "sub": 42, "device": "web", "meta": { "name": "Al" }, "topics": ["news"], "subscribe": ["room:*", "news"],
        "policy": "newest_wins", "per": "device", "handover": "immediate", "unknown": [1],
    }));
    let all = all.unwrap();
    assert_eq!((&*all.user, all.device.as_deref(), all.meta.as_deref()), ("42", Some("web"), Some(r#"{"name":"Al"}"#)));
    assert_eq!(all.policy, Some(Policy::NewestWins { per: Per::Device, handover: Handover::Immediate }));
    let rights = all.rights;
    assert_eq!(rights.topics, [Arc::from("news")]);
    assert!(rights.may_subscribe("room:7") && rights.may_subscribe("news") && !rights.may_subscribe("newsroom"));
    let little = grant(&json!({ "sub": "a", "max": 3, "subscribe": "room:7" })).unwrap();
    assert_eq!(little.policy, Some(Policy::Multi { max: 3, per: Per::User }));
    assert!(little.rights.may_subscribe("room:7"));
    assert!(!grant(&json!({ "sub": "a" })).unwrap().rights.may_subscribe("room:7"), "without the claim, nothing");
    let mut by_name = settings(KeySet::secret(SECRET).unwrap());
    by_name.user_claim = String::from("uid");
    let by_name = with(by_name);
    assert_eq!(&*by_name.check(&token(&json!({ "sub": "a", "uid": "b" })), NOW_MS).unwrap().user, "b");
    assert_eq!(by_name.check(&token(&json!({ "sub": "a" })), NOW_MS).unwrap_err().reason(), "claim");
}

#[test]
fn of_a_set_only_what_can_check_tokens_is_taken() {
    let (good, short) = (p256(1), json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" }));
    let mut for_encryption = ed25519(1).jwk;
    for_encryption["use"] = json!("enc");
    let mut off_curve = p256(2).jwk;
    off_curve["x"] = off_curve["y"].clone();
    let weak = json!({ "kty": "RSA", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode([0xff; 128]) });
    let unusable = vec![short, for_encryption, off_curve, weak, json!({ "kty": "AKP" }), json!(7)];
    let only_unusable = json!({ "keys": unusable }).to_string();
    assert_eq!(KeySet::jwks(only_unusable.as_bytes(), false).unwrap_err(), KeyError::NoneUsable(6));
    let with_good = [unusable, vec![good.jwk.clone()]].concat();
    let set = json!({ "keys": with_good }).to_string();
    assert_eq!(KeySet::jwks(set.as_bytes(), false).unwrap().len(), 1);
    let many = json!({ "keys": vec![good.jwk; 33] }).to_string();
    assert_eq!(KeySet::jwks(many.as_bytes(), false).unwrap_err(), KeyError::TooMany(33));
    assert!(matches!(KeySet::jwks(b"{", false), Err(KeyError::Jwks(_))));
}

/// A server with a key set, which can be changed, and the requests that it got.
struct Issuer {
    url: String,
    set: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<Mutex<u32>>,
    _tasks: JoinSet<()>,
}

impl Issuer {
    async fn start(set: String) -> Self {
        let (set, asked) = (Arc::new(Mutex::new((StatusCode::OK, set))), Arc::new(Mutex::new(0)));
        let (shown, counted) = (Arc::clone(&set), Arc::clone(&asked));
        let router = Router::new().route(
            "/jwks",
            get(move || {
                *counted.lock().unwrap() += 1;
                let answer = shown.lock().unwrap().clone();
                async move { answer }
            }),
        );
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/jwks", listener.address());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { serve(listener, router, ServeLimits::default(), CancellationToken::new()).await });
        Self { url, set, asked, _tasks: tasks }
    }

    fn show(&self, status: StatusCode, set: String) {
        *self.set.lock().unwrap() = (status, set);
    }

    fn asked(&self) -> u32 {
        *self.asked.lock().unwrap()
    }

    /// A verifier that has its keys from here, and reads them again after so short a pause.
    fn verifier(&self, pause_min: Duration, tasks: &mut JoinSet<()>) -> Arc<Verifier> {
        let mut settings = settings(KeySet::default());
        let at = JwksPlace::Url(self.url.clone());
        settings.jwks = Some(JwksSource { at, refresh: Duration::from_secs(3600) });
        let verifier = Arc::new(with(settings).pausing(pause_min));
        let keeper = Arc::clone(&verifier);
        tasks.spawn(async move { keeper.keep_keys().await });
        verifier
    }
}

fn signed(pair: &keys::Pair, id: &str) -> String {
    let minter = Minter::private_pem(pair.private_pem.as_bytes(), None).unwrap().key_id(Some(id.to_owned()));
    minter.mint(&claims(&json!({ "sub": "alice", "exp": clock::wall_ms() / 1000 + 60 })))
}

/// Tries until the outcome is as it should be, for as long as anything may take.
async fn until(verifier: &Verifier, token: &str, is: impl Fn(&Result<Grant, Refused>) -> bool) {
    let reached = tokio::time::timeout(Duration::from_secs(20), async {
        while !is(&verifier.verify(token).await) {
            tokio::task::yield_now().await;
        }
    });
    reached.await.expect("it comes to that");
}

#[tokio::test]
async fn new_keys_are_found_by_tokens_that_name_them_and_old_ones_stay_while_the_issuer_is_away() {
    let (old, new) = (p256(1), ed25519(2));
    let issuer = Issuer::start(jwks(&[("old", &old)])).await;
    let mut tasks = JoinSet::new();
    let verifier = issuer.verifier(Duration::from_millis(20), &mut tasks);
    // The first one waits for the keys.
    assert_eq!(verifier.verify(&signed(&old, "old")).await.map(|grant| grant.user), Ok("alice".into()));
    until(&verifier, &signed(&new, "new"), |outcome| *outcome == Err(Refused::UnknownKey)).await;
    issuer.show(StatusCode::OK, jwks(&[("old", &old), ("new", &new)]));
    until(&verifier, &signed(&new, "new"), Result::is_ok).await;
    // Whatever the issuer says instead of keys, those that are known stay.
    for (status, nonsense) in [
        (StatusCode::INTERNAL_SERVER_ERROR, jwks(&[("old", &old)])),
        (StatusCode::OK, String::from("<html>")),
        (StatusCode::OK, String::from("{\"keys\":[]}")),
        (StatusCode::OK, " ".repeat(300 << 10)),
    ] {
        issuer.show(status, nonsense);
        let before = issuer.asked();
        until(&verifier, &signed(&new, "unknown"), |_| issuer.asked() > before).await;
        assert!(verifier.verify(&signed(&new, "new")).await.is_ok());
    }
    // A key that is taken back is no longer taken.
    issuer.show(StatusCode::OK, jwks(&[("new", &new)]));
    until(&verifier, &signed(&new, "unknown"), |_| verifier.check(&signed(&old, "old"), clock::wall_ms()).is_err())
        .await;
}

#[tokio::test]
async fn strangers_do_not_make_the_issuer_be_asked_all_the_time() {
    let (known, unknown) = (p256(1), p256(2));
    let issuer = Issuer::start(jwks(&[("known", &known)])).await;
    let mut tasks = JoinSet::new();
    let verifier = issuer.verifier(Duration::from_secs(3600), &mut tasks);
    assert!(verifier.verify(&signed(&known, "known")).await.is_ok());
    for n in 0..100 {
        let refused = verifier.verify(&signed(&unknown, &format!("guess-{n}"))).await;
        assert_eq!(refused, Err(Refused::UnknownKey));
    }
    assert_eq!(issuer.asked(), 1);
}

#[tokio::test]
async fn without_any_keys_yet_a_token_is_not_called_wrong() {
    let issuer = Issuer::start(String::new()).await;
    let mut tasks = JoinSet::new();
    let verifier = issuer.verifier(Duration::from_millis(20), &mut tasks);
    let pair = p256(1);
    let refused = verifier.verify(&signed(&pair, "a")).await.unwrap_err();
    assert!(refused == Refused::NoKeys && refused.is_temporary());
    issuer.show(StatusCode::OK, jwks(&[("a", &pair)]));
    until(&verifier, &signed(&pair, "a"), Result::is_ok).await;
}

#[tokio::test]
async fn a_set_in_a_file_is_read_again_when_it_changes() {
    let (old, new) = (p256(1), p256(2));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), jwks(&[("old", &old)])).unwrap();
    let mut settings = settings(KeySet::default());
    let at = JwksPlace::File(file.path().to_owned());
    settings.jwks = Some(JwksSource { at, refresh: Duration::from_secs(3600) });
    let verifier = Arc::new(with(settings).pausing(Duration::from_millis(20)));
    let keeper = Arc::clone(&verifier);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { keeper.keep_keys().await });
    assert!(verifier.verify(&signed(&old, "old")).await.is_ok());
    std::fs::write(file.path(), jwks(&[("new", &new)])).unwrap();
    until(&verifier, &signed(&new, "new"), Result::is_ok).await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]

    #[test]
    fn mangled_tokens_are_refused_and_nothing_panics(
        which in 0..5_usize, at in any::<prop::sample::Index>(), with in any::<u8>(), cut in 0..4_usize, noise in ".{0,40}",
    ) {
        let pairs = [p256(1), p384(1), ed25519(1)];
        let alice = claims(&json!({ "sub": "alice", "topics": ["a"], "meta": {} }));
        let mut keys = KeySet::secret(SECRET).unwrap();
        for pair in &pairs {
            keys.add(KeySet::public_pem(pair.public_pem.as_bytes()).unwrap());
        }
        let verifier = verifier(keys);
        let good = match pairs.get(which) {
            Some(pair) => Minter::private_pem(pair.private_pem.as_bytes(), None).unwrap().mint(&alice),
            None => token(&Value::Object(alice)),
        };
        prop_assert!(verifier.check(&good, NOW_MS).is_ok());
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        match cut {
            0 => bytes[at] = with,
            1 => bytes.truncate(at),
            2 => drop(bytes.splice(at..at, noise.bytes())),
            _ => bytes = noise.into_bytes(),
        }
        let mangled = String::from_utf8_lossy(&bytes).into_owned();
        if mangled != good {
            let refused = verifier.check(&mangled, NOW_MS);
            prop_assert!(refused.is_err(), "{mangled}");
            let said = refused.unwrap_err().to_string();
            prop_assert!(mangled.len() < 8 || !said.contains(&mangled));
        }
    }
}
