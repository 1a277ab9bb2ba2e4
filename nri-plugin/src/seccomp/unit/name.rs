//! Names of units, and what they tell of each other.

/// The names whose drop-ins a unit has, the nearest first: its own, that of its template, and those that it begins like, up
/// to a `-`. Those of a template are what all its instances have.
#[must_use]
pub fn names(unit: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut name = unit.to_owned();
    loop {
        let rest = name.split_once('@').map(|(_, rest)| rest.to_owned());
        names.push(name.clone());
        names.extend(template(&name));
        let prefix =
            name.split_once('@').map_or_else(|| name.strip_suffix(".service"), |(prefix, _)| Some(prefix));
        let prefix = prefix.unwrap_or_default();
        // one dash at the end is that of the step before
        let Some((prefix, _)) = prefix.strip_suffix('-').unwrap_or(prefix).rsplit_once('-') else { break };
        if prefix.is_empty() {
            break;
        }
        name = match rest {
            Some(rest) => format!("{prefix}-@{rest}"),
            None => format!("{prefix}-.service"),
        };
    }
    names
}

/// The template of an instance: `getty@.service` of `getty@tty1.service`.
pub fn template(unit: &str) -> Option<String> {
    let (name, rest) = unit.split_once('@')?;
    (rest != ".service").then(|| format!("{name}@.service"))
}

/// The same instance of another template; a unit that is no instance stays what it is.
pub fn instance_of(template: &str, unit: &str) -> String {
    match (template.split_once('@'), unit.split_once('@')) {
        (Some((name, _)), Some((_, rest))) => format!("{name}@{rest}"),
        _ => template.to_owned(),
    }
}
