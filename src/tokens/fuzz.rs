//! What strangers send as a token, what issuers put into one, and the key sets that they publish.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Grant, KeySet, Minter, Refused, Settings, Verifier};
use crate::directory::limits::{TEXT_BYTES_MAX, is_name, is_optional_name};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// A moment, milliseconds since 1970.
const NOW_MS: u64 = 1_900_000_000_000;

static MINTER: LazyLock<Minter> = LazyLock::new(|| Minter::secret(SECRET, None).expect("the secret is long enough"));
static VERIFIER: LazyLock<Verifier> =
    LazyLock::new(|| with(KeySet::secret(SECRET).expect("the secret is long enough")));

fn with(keys: KeySet) -> Verifier {
    let (audience, issuer) = (Vec::new(), Vec::new());
    let user_claim = String::from("sub");
    let settings = Settings { keys, jwks: None, audience, issuer, user_claim, leeway: Duration::from_secs(5) };
    Verifier::new(settings, &Arc::from("fuzz"))
}

/// The same bytes as each of the three.
pub(crate) fn tokens(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match VERIFIER.check(text, NOW_MS) {
        Ok(grant) => hold(&grant),
        Err(refused) => assert!(text.len() < 16 || !refused.to_string().contains(text), "{refused}"),
    }
    if let Ok(claims) = serde_json::from_str::<Map<String, Value>>(text) {
        let signed = VERIFIER.check(&MINTER.mint(&claims), NOW_MS);
        match (Grant::read(claims, "sub"), signed) {
            (Ok(read), Ok(granted)) => {
                hold(&read);
                assert_eq!((read.user, read.policy, read.rights), (granted.user, granted.policy, granted.rights));
            }
            (Ok(_), Err(refused)) => {
                let timely = !matches!(refused, Refused::Expired | Refused::NotYetValid | Refused::TooLarge);
                assert!(!timely || matches!(refused, Refused::Claim { .. }), "{refused}");
            }
            (Err(refused), signed) => assert!(signed.is_err(), "{refused}"),
        }
    }
    for may_hold_secrets in [false, true] {
        if let Ok(keys) = KeySet::jwks(data, may_hold_secrets) {
            // Whatever the keys are: they check something, and nothing breaks.
            let _ = with(keys).check(text, NOW_MS);
        }
    }
}

/// What is granted keeps to the limits of what it becomes.
fn hold(grant: &Grant) {
    assert!(is_name(&grant.user) && grant.device.as_deref().is_none_or(is_optional_name), "{grant:?}");
    assert!(grant.meta.as_ref().is_none_or(|meta| meta.starts_with('{') && meta.len() <= TEXT_BYTES_MAX), "{grant:?}");
    assert!(grant.rights.topics.iter().all(|topic| is_name(topic)), "{grant:?}");
}
