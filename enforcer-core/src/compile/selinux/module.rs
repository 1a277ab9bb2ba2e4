//! The module: users, and constraints on files that have them.

use std::fmt;
use std::str::FromStr;

use super::Label;

/// Its name in the module store; no other module is ever replaced or removed.
pub const MODULE: &str = "nri_enforcer";
/// The longest name of a domain, in bytes.
const MAX_DOMAIN: usize = 200;

/// What is denied by each bit, by the class of the object. Each of these permissions is older than 2010, so that every
/// policy in use has them.
const DENIED: [(Label, &str, &str); 14] = [
    (Label::READ, "file", "read"),
    (Label::READ, "chr_file", "read"),
    (Label::READ, "blk_file", "read"),
    (Label::READ, "fifo_file", "read"),
    (Label::WRITE, "file", "write append rename unlink link setattr"),
    (Label::WRITE, "chr_file", "write append rename unlink link setattr"),
    (Label::WRITE, "blk_file", "write append rename unlink link setattr"),
    (Label::WRITE, "fifo_file", "write append rename unlink link setattr"),
    (Label::WRITE, "sock_file", "write append rename unlink link setattr"),
    (Label::WRITE, "lnk_file", "rename unlink link setattr"),
    (Label::WRITE, "dir", "rename reparent rmdir setattr"),
    (Label::EXECUTE, "file", "execute execute_no_trans entrypoint"),
    (Label::CREATE, "dir", "add_name"),
    (Label::MOVE, "dir", "rename reparent"),
];
/// What can have a label.
const CLASSES: [&str; 7] = ["file", "dir", "lnk_file", "chr_file", "blk_file", "sock_file", "fifo_file"];
/// The attributes for users that deny one thing, in the order of their bits.
const ATTRIBUTES: [(Label, &str); 5] = [
    (Label::READ, "nri_enforcer_denies_read"),
    (Label::WRITE, "nri_enforcer_denies_write"),
    (Label::EXECUTE, "nri_enforcer_denies_execute"),
    (Label::CREATE, "nri_enforcer_denies_create"),
    (Label::MOVE, "nri_enforcer_denies_move"),
];
/// The attribute of all of them.
const ANY: &str = "nri_enforcer_denies";

/// The type of a process: letters, digits, `_`, `-` and `.`, the first a letter or `_`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Domain(String); // INVARIANT: as documented

impl Domain {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// That of a process with this label, `user:role:type` and a level where the policy has those.
    ///
    /// # Errors
    /// When it is no such label.
    pub fn of_label(label: &str) -> Result<Self, InvalidDomain> {
        let domain = label.split(':').nth(2).ok_or_else(|| InvalidDomain(label.to_owned()))?;
        domain.trim_end_matches(['\0', '\n']).parse()
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
        let rest = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        match first && rest && text.len() <= MAX_DOMAIN {
            true => Ok(Self(text.to_owned())),
            false => Err(InvalidDomain(text.to_owned())),
        }
    }
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is no [`Domain`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` names no SELinux domain", .0.escape_debug())]
pub struct InvalidDomain(String);

/// The module, in the Common Intermediate Language. Only `keeper` may put its labels on files and take them off.
///
/// It depends on nothing of the base policy but `object_r`, `s0`, the classes of files, and the keeper's type.
#[must_use]
pub fn module(keeper: &Domain) -> String {
    let mut text =
        String::from("; Made by nri-enforcer: takes rights away from files that have one of these users.\n");
    let users: Vec<(Label, String)> =
        Label::all().filter_map(|label| label.user().map(|user| (label, user))).collect();
    for (_, user) in &users {
        text.push_str(&format!(
            "(user {user})(userrole {user} object_r)(userlevel {user} (s0))(userrange {user} ((s0)(s0)))\n"
        ));
    }
    let mut attribute = |name: &str, of: Label| {
        let members: Vec<&str> =
            users.iter().filter(|(label, _)| label.has(of)).map(|(_, user)| user.as_str()).collect();
        text.push_str(&format!("(userattribute {name})(userattributeset {name} ({}))\n", members.join(" ")));
    };
    attribute(ANY, Label::NOTHING);
    ATTRIBUTES.iter().for_each(|(bit, name)| attribute(name, *bit));
    for (bit, class, permissions) in DENIED {
        let names = ATTRIBUTES.iter().filter(|(of, _)| *of == bit);
        for (_, attribute) in names {
            text.push_str(&format!("(constrain ({class} ({permissions})) (neq u2 {attribute}))\n"));
        }
    }
    let unless = |attribute: &str| format!("(or (neq u2 {attribute}) (eq t1 {keeper}))");
    text.push_str(&format!("(constrain (dir (read)) {})\n", unless("nri_enforcer_denies_read")));
    for class in CLASSES {
        text.push_str(&format!("(constrain ({class} (create relabelfrom relabelto)) {})\n", unless(ANY)));
    }
    text
}
