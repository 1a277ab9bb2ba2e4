use super::*;

const KEY: [&str; 3] = ["plugins", "io.x", "disable"];

fn toml(text: &str) -> Toml {
    Toml::new(text.to_owned(), false).unwrap()
}

/// Sets the key to false, and compares; then undoes it, and compares with what was before.
fn there_and_back(before: &str, after: &str) {
    let mut edited = toml(before);
    let edit = edited.set(&KEY, "false").unwrap().unwrap();
    assert_eq!(edited.text(), after);
    assert_eq!(edited.set(&KEY, "false"), Ok(None), "once is enough");
    assert_eq!((edited.undo(&edit), edited.text()), (Undone::Restored, before));
    assert_eq!(edited.undo(&edit), if before.contains("disable") { Undone::Changed } else { Undone::Gone });
}

#[test]
fn a_value_is_replaced_and_nothing_else() {
    there_and_back(
        "# c\r\nversion = 2\r\n  [plugins.\"io.x\"]\r\n    disable = true # why\r\nz=1",
        "# c\r\nversion = 2\r\n  [plugins.\"io.x\"]\r\n    disable = false # why\r\nz=1",
    );
    there_and_back("plugins.\"io.x\".disable=true", "plugins.\"io.x\".disable=false");
    there_and_back("[plugins]\n'io.x' = {a=1,disable =true}\n", "[plugins]\n'io.x' = {a=1,disable =false}\n");
}

#[test]
fn a_key_is_added_to_the_table_that_is_there() {
    there_and_back(
        "[plugins]\n  [plugins.\"io.x\"] # its\n    b = 1\n[plugins.\"io.x\".sub]\n",
        "[plugins]\n  [plugins.\"io.x\"] # its\n    disable = false\n    b = 1\n[plugins.\"io.x\".sub]\n",
    );
    there_and_back("[plugins.\"io.x\"]", "[plugins.\"io.x\"]\n  disable = false\n");
    there_and_back("[plugins]\n\"io.x\" = {a = 1}\n", "[plugins]\n\"io.x\" = { disable = false,a = 1}\n");
    there_and_back("[plugins]\n\"io.x\" = {}\n", "[plugins]\n\"io.x\" = { disable = false }\n");
}

#[test]
fn a_table_is_added_at_the_end() {
    there_and_back("", "[plugins.\"io.x\"]\n  disable = false\n");
    there_and_back("a = 1", "a = 1\n\n[plugins.\"io.x\"]\n  disable = false\n");
    there_and_back("# a\r\n[b]\r\n", "# a\r\n[b]\r\n\r\n[plugins.\"io.x\"]\r\n  disable = false\r\n");
    // only a table below it is there
    let sub = "[plugins.\"io.x\".sub]\na = 1\n";
    there_and_back(sub, &format!("{sub}\n[plugins.\"io.x\"]\n  disable = false\n"));
}

#[test]
fn what_cannot_be_edited_is_left() {
    for text in ["plugins = 1\n", "plugins = {}\n", "[[plugins]]\n", "[plugins]\n'io.x'.a = 1\n"] {
        let mut edited = toml(text);
        match edited.set(&KEY, "false") {
            Ok(_) => assert_eq!(edited.data()["plugins"]["io.x"]["disable"], false, "{text}"),
            Err(error) => {
                assert_eq!(error, EditError::Unsupported("plugins.\"io.x\".disable".into()));
                assert_eq!(edited.text(), text);
            }
        }
    }
}

#[test]
fn a_text_that_is_no_toml_is_told_with_its_place() {
    let error = Toml::new("a = 1\nä = [\n b\n".into(), false).unwrap_err();
    let EditError::Syntax { line, .. } = error else { panic!("{error}") };
    assert!((2..=4).contains(&line), "{line}");
    let error = Toml::new("a = 1\n  b = \n".into(), false).unwrap_err().to_string();
    assert!(error.starts_with("line 2, column "), "{error}");
    assert!(Toml::new("[a]\n[a]\n".into(), false).is_err(), "twice the same table");
}

#[test]
fn lines_of_a_template_are_left_alone() {
    let text = "{{ template \"base\" . }}\n\n[plugins.\"io.x\"]\n  a = {{ .A }}\n  b = 1\n";
    assert!(Toml::new(text.into(), false).is_err());
    let mut edited = Toml::new(text.into(), true).unwrap();
    let edit = edited.set(&KEY, "false").unwrap().unwrap();
    assert_eq!(edited.text(), text.replace("\"]\n", "\"]\n  disable = false\n"));
    assert_eq!((edited.undo(&edit), edited.text()), (Undone::Restored, text));
}

#[test]
fn an_element_is_taken_out_of_a_list() {
    for (before, after) in [
        ("a = 1\nd = [\"x\", \"y\", \"z\"] # c\n", "a = 1\nd = [\"x\", \"z\"] # c\n"),
        ("d=[ 'y' ]\r\n", "d=[]\r\n"),
        ("d = [\r\n  \"y\", # no\r\n  \"x\",\r\n]\r\n", "d = [\r\n  \"x\",\r\n]\r\n"),
    ] {
        let mut edited = toml(before);
        let edit = edited.without(&["d"], "y").unwrap().unwrap();
        assert_eq!(edited.data()["d"], toml(after).data()["d"], "{}", edited.text());
        assert!(!edited.text().contains("\n\n") && !edited.text().replace("\r\n", "").contains('\r'));
        assert_eq!(edited.without(&["d"], "y"), Ok(None));
        assert_eq!((edited.undo(&edit), edited.text()), (Undone::Restored, before));
    }
    assert_eq!(toml("d = 1\n").without(&["d"], "y"), Ok(None));
    assert_eq!(toml("").without(&["d"], "y"), Ok(None));
}

#[test]
fn what_others_do_later_stays() {
    let mut edited = toml("a = 1\n");
    let edit = edited.set(&KEY, "false").unwrap().unwrap();
    let after = edited.text().to_owned();
    // others put something into the table that came with the key, and behind it
    let mut theirs = toml(&format!("{after}  socket = \"s\"\n[other]\n"));
    assert_eq!(theirs.undo(&edit), Undone::Restored);
    assert_eq!(theirs.text(), "a = 1\n\n[plugins.\"io.x\"]\n  socket = \"s\"\n[other]\n");
    // something before it
    let mut theirs = toml(&format!("# new\nb = 2\n{after}"));
    assert_eq!((theirs.undo(&edit), theirs.text()), (Undone::Restored, "# new\nb = 2\na = 1\n"));
    // they moved it, or gave it a comment
    let mut theirs = toml("a = 1\n[plugins.\"io.x\"]\nb = 1\ndisable = false # ours\n");
    assert_eq!((theirs.undo(&edit), theirs.text()), (Undone::Restored, "a = 1\n[plugins.\"io.x\"]\nb = 1\n"));
    // they gave it another value
    let other = after.replace("false", "true");
    let mut theirs = toml(&other);
    assert_eq!((theirs.undo(&edit), theirs.text()), (Undone::Changed, other.as_str()));
    // they wrote it in a way in which it cannot be taken out alone
    let inline = "plugins = {\"io.x\" = {disable = false}, b = 1}\n";
    let mut theirs = toml(inline);
    assert_eq!((theirs.undo(&edit), theirs.text()), (Undone::Stuck, inline));
}

/// Parts of configurations, to be put together at random.
const PARTS: [&str; 14] = [
    "# comment\n",
    "\n",
    "version = 2\n",
    "[plugins]\n",
    "  [plugins.\"io.x\"]\n",
    "    disable = true\n",
    "    disable = false # so\n",
    "    socket = 'x'\n",
    "[plugins.\"io.x\".sub]\n",
    "\"io.x\" = {a = 1}\n",
    "[other.\"io.x\"]\r\n",
    "text = \"\"\"\ndisable = false\n\"\"\"\n",
    "[[list]]\n",
    "\"io.x\".a.b = 1",
];

#[test]
fn whatever_the_file_there_and_back_is_the_same() {
    let (mut tried, mut set) = (0, 0);
    let count = PARTS.len();
    for seed in (0..count.pow(4)).step_by(5) {
        let picks = [seed % count, seed / count % count, seed / count.pow(2) % count, seed / count.pow(3)];
        let text: String = picks.iter().map(|pick| PARTS[*pick]).collect();
        let Ok(mut edited) = Toml::new(text.clone(), false) else { continue };
        tried += 1;
        let Ok(Some(edit)) = edited.set(&KEY, "false") else { continue };
        set += 1;
        assert_eq!(edited.data()["plugins"]["io.x"]["disable"], false, "{text}");
        assert_eq!((edited.undo(&edit), edited.text()), (Undone::Restored, text.as_str()), "{text}");
    }
    assert!(tried > 1_000 && set > 800, "{tried} {set}");
}
