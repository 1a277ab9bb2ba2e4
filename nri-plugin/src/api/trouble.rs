//! What can stand between the daemon and the API server.

use std::fmt;

/// Why the objects of a resource cannot be read now. What is in force stays in force in each case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// There is no way to the server: the kubeconfig, or what the cluster puts into pods, cannot be used.
    Configuration(String),
    /// The server does not answer, or not as it should.
    Unreachable(String),
    /// The server does not know who asks.
    Unauthorized(String),
    /// The server knows who asks, and refuses.
    Forbidden(String),
    /// The server knows no such kind: its definition is missing.
    Absent,
    /// The place to watch from, or to list on from, is too old.
    Gone,
    /// The answer has more than so many bytes.
    TooLong(usize),
    /// The server's answer is not one to the question.
    Nonsense(String),
    /// Any other answer that is none.
    Refused(u16, String),
}

impl Trouble {
    /// Whether it is the same sort of thing, in other words or not.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Refused(one, _), Self::Refused(another, _)) => one == another,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// Whether it concerns the whole server, whatever it is asked for.
    pub(super) const fn is_everywhere(&self) -> bool {
        matches!(self, Self::Configuration(_) | Self::Unreachable(_) | Self::Unauthorized(_))
    }

    /// Whether what was written is too large for the server, or for its store.
    pub(super) fn is_too_large(&self) -> bool {
        match self {
            Self::Refused(413, _) => true,
            Self::Refused(500, why) => why.contains("too large") || why.contains("larger than max"),
            _ => false,
        }
    }

    /// An answer with this HTTP status and body.
    pub(super) fn of_status(code: u16, body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let message = serde_json::from_str::<serde_json::Value>(&text)
            .ok()
            .and_then(|status| status.get("message").and_then(serde_json::Value::as_str).map(str::to_owned));
        // what is no Status object may be the page of a proxy
        let message: String = message.unwrap_or_else(|| text.into_owned()).chars().take(300).collect();
        let message = message.trim().to_owned();
        match code {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden(message),
            404 => Self::Absent,
            410 => Self::Gone,
            code => Self::Refused(code, message),
        }
    }

    /// What to do about it.
    pub(super) const fn help(&self) -> &'static str {
        match self {
            Self::Configuration(_) => {
                "in a pod leave --kubeconfig out and mount the service account's token; elsewhere give --kubeconfig"
            }
            Self::Unreachable(_) | Self::TooLong(_) | Self::Nonsense(_) | Self::Refused(..) => {
                "what was read before stays in force; trying again"
            }
            Self::Unauthorized(_) => {
                "what was read before stays in force; look at the token or certificate that the daemon has"
            }
            Self::Forbidden(_) => {
                "what was read before stays in force; give the daemon's service account `list` and `watch` for it"
            }
            Self::Absent => {
                "apply what `nri-enforcer crds` prints; objects that were read before stay in force until a list without them is read"
            }
            Self::Gone => "all is read again",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(why) => write!(f, "there is no way to the API server: {why}"),
            Self::Unreachable(why) => write!(f, "the API server cannot be reached: {why}"),
            Self::Unauthorized(why) => write!(f, "the API server does not know who asks: {why}"),
            Self::Forbidden(why) => write!(f, "the API server refuses: {why}"),
            Self::Absent => f.write_str("the API server knows no such kind"),
            Self::Gone => f.write_str("the place in the API server's history is too old"),
            Self::TooLong(most) => write!(f, "the API server's answer has more than {most} bytes"),
            Self::Nonsense(why) => write!(f, "the API server's answer makes no sense: {why}"),
            Self::Refused(code, why) => write!(f, "the API server answers {code}: {why}"),
        }
    }
}
