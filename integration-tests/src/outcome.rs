//! What becomes of a container when the daemon is not as it should be: the cells of the hook's tables.

/// Of a container that does what the policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was denied.
    Protected,
    /// And recorded, as the hook did not know.
    ProtectedRecorded,
    /// It does not start.
    Refused,
    /// It was not denied.
    Unprotected {
        /// Whether the hook recorded it.
        recorded: bool,
    },
}

/// [`Outcome::Protected`]
pub const PROTECTED: Outcome = Outcome::Protected;
/// [`Outcome::ProtectedRecorded`]
pub const LATE: Outcome = Outcome::ProtectedRecorded;
/// [`Outcome::Refused`]
pub const REFUSED: Outcome = Outcome::Refused;
/// [`Outcome::Unprotected`], and recorded.
pub const RECORDED: Outcome = Outcome::Unprotected { recorded: true };
/// [`Outcome::Unprotected`], and not recorded.
pub const STARTS: Outcome = Outcome::Unprotected { recorded: false };

impl Outcome {
    /// The cell's text.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Protected => "starts under its policies",
            Self::ProtectedRecorded => "starts under its policies, recorded",
            Self::Refused => "**does not start**",
            Self::Unprotected { recorded: true } => "starts unprotected, recorded",
            Self::Unprotected { recorded: false } => "starts",
        }
    }
}
