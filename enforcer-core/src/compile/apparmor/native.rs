//! Native rules: `apparmor` of a policy.
//!
//! They are taken where they can do no more than they say: rules about paths, capabilities and sockets, one before each
//! comma. Each is read word by word and written anew, so that no text of a policy ends a rule, a profile, or a string.
//! Everything else is left out, and is a gap: transitions, which would lead out of the profile, mounts, signals, variables
//! and includes.
//!
//! A rule that denies stands above every rule of every policy; one that allows stands where the posture does, so that all
//! rules of policies come before it.

use crate::capability::Capability;
use crate::pattern::Pattern;
use crate::policy::{Policy, PolicyId};
use crate::subject::Subject;

/// The native rules of one policy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Native {
    /// The policy.
    pub policy: PolicyId,
    /// As written.
    pub text: String,
}

impl Native {
    /// Those of the policies that select `subject`.
    pub fn of<'p>(policies: impl IntoIterator<Item = &'p Policy>, subject: &Subject) -> Vec<Self> {
        let selected = policies.into_iter().filter(|policy| policy.selects(subject));
        let native = |policy: &Policy| {
            let text = policy.native_apparmor()?.to_owned();
            Some(Self { policy: policy.id().clone(), text })
        };
        selected.filter_map(native).collect()
    }
}

/// The longest text that is read, in bytes.
const MAX_TEXT: usize = 64 << 10;

/// One rule, safe to stand in a profile.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    pub(super) denies: bool,
    pub(super) text: String,
}

impl Line {
    /// Whether it denies something of files.
    pub(super) fn denies_paths(&self) -> bool {
        // no other rule has a string
        self.denies && self.text.contains('"')
    }

    /// Whether it allows a capability that is [withheld](super::is_withheld) where paths are denied.
    pub(super) fn gives_withheld(&self) -> bool {
        let mut words = self.text.split(' ').skip_while(|word| *word == "audit");
        let names = || self.text.split(' ').any(super::is_withheld);
        // without names it is all of them
        !self.denies && words.next() == Some("capability") && (words.next().is_none() || names())
    }
}

/// What is taken of a text, and why each other part is not.
pub(super) fn read(text: &str) -> (Vec<Line>, Vec<String>) {
    if text.len() > MAX_TEXT {
        return (Vec::new(), vec![format!("{} bytes are more than {MAX_TEXT}", text.len())]);
    }
    let mut lines = Vec::new();
    let mut refused = Vec::new();
    for rule in split(text) {
        match line(&rule) {
            Ok(found) => lines.extend(found),
            Err(why) => {
                let shown: String = rule.chars().take(80).collect();
                refused.push(format!("`{}`: {why}", shown.escape_debug()));
            }
        }
    }
    (lines, refused)
}

/// The rules of a text: comments go away, and a comma ends a rule unless it stands in braces, brackets or quotes.
fn split(text: &str) -> Vec<String> {
    let mut rules = vec![String::new()];
    let (mut depth, mut quoted) = (0usize, false);
    let lines = text.lines().map(|line| match line.trim_start().starts_with('#') {
        // an `#include` would be no comment
        true if !line.trim_start().starts_with("#include") => "",
        _ => line,
    });
    for c in lines.flat_map(|line| line.chars().chain(['\n'])) {
        match c {
            '"' => quoted = !quoted,
            '{' | '[' if !quoted => depth = depth.saturating_add(1),
            '}' | ']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if c == ',' && depth == 0 && !quoted {
            rules.push(String::new());
        } else if let Some(rule) = rules.last_mut() {
            rule.push(c);
        }
    }
    rules.into_iter().map(|rule| rule.trim().to_owned()).filter(|rule| !rule.is_empty()).collect()
}

/// What a rule is written as.
fn line(rule: &str) -> Result<Vec<Line>, &'static str> {
    let mut words: Vec<&str> = rule.split_ascii_whitespace().collect();
    let mut take = |word: &str| {
        let found = words.first() == Some(&word);
        if found {
            words.remove(0);
        }
        found
    };
    let audit = if take("audit") { "audit " } else { "" };
    let denies = take("deny");
    if !denies {
        take("allow");
    }
    let owner = if take("owner") { "owner " } else { "" };
    let rest = match &*words {
        ["capability", names @ ..] if owner.is_empty() => capabilities(names)?,
        ["network", rest @ ..] if owner.is_empty() => network(rest)?,
        ["file", glob, perms] | [glob, perms] if glob.starts_with(['/', '"']) => file(glob, perms, denies)?,
        ["file", perms, glob] | [perms, glob] => file(glob, perms, denies)?,
        _ => return Err("only rules about paths, capabilities and sockets are taken"),
    };
    let deny = if denies { "deny " } else { "" };
    let spelled = match (denies, owner) {
        (false, "") => by_owners(rest),
        _ => vec![format!("{owner}{rest}")],
    };
    let line = |text: String| Line { denies, text: format!("{audit}{deny}{text}") };
    Ok(spelled.into_iter().map(line).collect())
}

/// A rule that allows, with making links for the file's owner alone. For all others the kernel does not look at whether the
/// new name allows more than the old one, so by a link they would read what a rule denies.
fn by_owners(rule: String) -> Vec<String> {
    match rule.rsplit_once("\" ") {
        Some((glob, perms)) if perms.contains('l') => {
            let others: String = perms.chars().filter(|perm| *perm != 'l').collect();
            let others = (!others.is_empty()).then(|| format!("{glob}\" {others}"));
            others.into_iter().chain([format!("owner {glob}\" l")]).collect()
        }
        _ => vec![rule],
    }
}

fn capabilities(names: &[&str]) -> Result<String, &'static str> {
    let known = |name: &&str| Capability::all().find(|capability| capability.name() == *name);
    let found =
        names.iter().map(known).collect::<Option<Vec<_>>>().ok_or("a capability that is not known")?;
    Ok(found.iter().fold("capability".to_owned(), |text, capability| text + " " + capability.name()))
}

fn network(words: &[&str]) -> Result<String, &'static str> {
    let known = match words {
        [] => true,
        [one] => super::sockets::is_family(one) || super::sockets::is_type(one),
        [family, kind] => super::sockets::is_family(family) && super::sockets::is_type(kind),
        _ => false,
    };
    if !known {
        return Err("not the name of a family of sockets, or of their type");
    }
    Ok(words.iter().fold("network".to_owned(), |text, word| text + " " + word))
}

fn file(glob: &str, perms: &str, denies: bool) -> Result<String, &'static str> {
    let glob = glob.strip_prefix('"').and_then(|glob| glob.strip_suffix('"')).unwrap_or(glob);
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-+=~%*?[]{}^,:;".contains(&byte);
    if !glob.bytes().all(safe) {
        return Err("a path with other characters than letters, digits and `/_.-+=~%*?[]{}^,:;`");
    }
    // the grammar is the same; what each sign means is for AppArmor to say
    let shape = match glob.strip_suffix('/') {
        Some(rest) if !rest.is_empty() => rest,
        _ => glob,
    };
    if !glob.starts_with('/') || shape.parse::<Pattern>().is_err() {
        return Err("not a path that starts with `/`, or its brackets do not match");
    }
    let file: String = perms.chars().filter(|c| "rwalkm".contains(*c)).collect();
    let exec = perms.len() > file.len();
    if perms.is_empty() || (exec && !(denies && file.clone() + "x" == perms)) {
        return Err("permissions other than `rwalkm`, with `x` at the end where it is denied");
    }
    if file.contains('w') && file.contains('a') {
        return Err("`w` and `a` do not go together");
    }
    Ok(format!("\"{glob}\" {perms}"))
}
