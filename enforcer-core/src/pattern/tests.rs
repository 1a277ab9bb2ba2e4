use super::*;

fn pattern(text: &str) -> Pattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn each_sign_matches_what_it_says() {
    for (text, matching, other) in [
        ("/a", &["/a"][..], &["/", "/ab", "/a/b", "a", ""][..]),
        ("/a*", &["/a", "/ab", "/abc"], &["/a/b", "/b", "/ab/"]),
        ("/*/b", &["/a/b", "//b"], &["/b", "/a/c/b"]),
        ("/a**", &["/a", "/ab", "/a/b", "/a/b/c"], &["/b"]),
        ("/a/**", &["/a/b", "/a/b/c", "/a/"], &["/a", "/ab/c"]),
        ("/a/**/z", &["/a/b/z", "/a/b/c/z", "/a//z"], &["/a/z", "/a/b/y"]),
        ("/a/***", &["/a/b/c"], &["/a"]),
        ("**.sh", &["/a.sh", "/a/b.sh", ".sh"], &["/a.shx"]),
        ("/a?c", &["/abc", "/a*c"], &["/ac", "/a/c", "/abbc"]),
        ("/[abc]x", &["/ax", "/cx"], &["/dx", "/x", "/abx"]),
        ("/[a-cx-z]", &["/a", "/b", "/y"], &["/d", "/-"]),
        ("/[a-]", &["/a", "/-"], &["/b"]),
        ("/[-a]", &["/a", "/-"], &["/b"]),
        ("/[^a-c]", &["/d", "/-", "/]"], &["/a", "//", "/dd"]),
        ("/[!a]", &["/b", "/!"], &["/a", "//"]),
        ("/[a^!]", &["/a", "/^", "/!"], &["/b"]),
        ("/[\\]\\\\]", &["/]", "/\\"], &["/["]),
        ("/{a,bc}/x", &["/a/x", "/bc/x"], &["/b/x", "/abc/x", "/x"]),
        ("/{a,b{c,d},}x", &["/ax", "/bcx", "/bdx", "/x"], &["/bx"]),
        ("{/a,/b/*}/c", &["/a/c", "/b/x/c"], &["/b/c"]),
        ("/x{/**,}", &["/x", "/x/y/z"], &["/xy"]),
        ("/\\*\\?\\[\\{\\}\\,\\\\", &["/*?[{},\\"], &["/x"]),
        ("/a,b]", &["/a,b]"], &["/a"]),
        ("/é?", &["/éx"], &["/é"]),
        ("/??", &["/é"], &["/e"]),
    ] {
        let pattern = pattern(text);
        for path in matching {
            assert!(pattern.matches(path.as_bytes()), "{text} {path}");
        }
        for path in other {
            assert!(!pattern.matches(path.as_bytes()), "{text} {path}");
        }
        assert_eq!(pattern.to_string(), text);
    }
}

#[test]
fn what_could_match_below_a_directory() {
    for (text, below, not_below) in [
        ("/a/b/c", &["/", "/a", "/a/b"][..], &["/a/b/c", "/b", "/a/bb", "/a/b/c/d"][..]),
        ("/a/*/c", &["/", "/a", "/a/x"], &["/a/x/c", "/a/x/y", "/b"]),
        ("/a/**", &["/", "/a", "/a/x/y"], &["/ab", "/b"]),
        ("**.key", &["/", "/x/y", "/x.key"], &[]),
        ("/a*", &["/"], &["/a", "/ab"]),
        ("/a{b,/c/d}", &["/", "/a", "/a/c"], &["/ab", "/a/c/d"]),
        ("/a{,/b}", &["/", "/a"], &["/a/b"]),
    ] {
        let pattern = pattern(text);
        for path in below {
            assert!(pattern.could_match_below(path.as_bytes()), "{text} {path}");
        }
        for path in not_below {
            assert!(!pattern.could_match_below(path.as_bytes()), "{text} {path}");
        }
    }
}

#[test]
fn mistakes_are_told_with_their_place() {
    use PatternProblem::*;
    for (text, at, problem) in [
        ("", 1, Empty),
        ("a", 1, Relative),
        ("*/a", 1, Relative),
        ("?a", 1, Relative),
        ("[a]", 1, Relative),
        ("{/a,b}", 1, Relative),
        ("{,/a}x", 1, Relative),
        ("\\x", 1, Relative),
        ("/a\\", 3, LoneEscape),
        ("/a\0", 3, ZeroByte),
        ("/[\0]", 3, ZeroByte),
        ("/[a", 2, OpenSet),
        ("/[a-", 2, OpenSet),
        ("/[\\", 2, OpenSet),
        ("/[]", 2, EmptySet),
        ("/[^]", 2, EmptySet),
        ("/[z-a]", 5, Range),
        ("/[a/]", 4, SlashInSet),
        ("/é[é]", 4, WideInSet('é')),
        ("/{a,b", 2, OpenAlternatives),
        ("/{a,{b,c}", 2, OpenAlternatives),
        ("/a}b", 3, StrayBrace),
        ("/{a}", 2, OneAlternative),
        ("/{}", 2, OneAlternative),
        ("/a//b", 4, NeverInPath("//")),
        ("//", 2, NeverInPath("//")),
        ("/a/./b", 4, NeverInPath("/./")),
        ("/a/..", 4, NeverInPath("/../")),
        ("/a//", 4, NeverInPath("//")),
        ("/é\\/", 4, EndsInSlash),
    ] {
        assert_eq!(text.parse::<Pattern>(), Err(PatternError { at, problem }), "{text}");
    }
    let long = format!("/{}", "a".repeat(MAX_PATTERN_LEN - 1));
    assert!(long.parse::<Pattern>().is_ok());
    assert_eq!(format!("{long}a").parse::<Pattern>().unwrap_err().problem, TooLong(MAX_PATTERN_LEN + 1));
    let nested = |depth: usize| format!("/{}x{}", "{a,".repeat(depth), "}".repeat(depth));
    assert!(nested(MAX_NESTING).parse::<Pattern>().is_ok());
    assert_eq!(nested(MAX_NESTING + 1).parse::<Pattern>().unwrap_err().problem, TooDeep);
}

#[test]
fn the_worst_patterns_take_no_longer() {
    for text in ["/".to_owned() + &"*a".repeat(500), "/".to_owned() + &"{a,*,**}".repeat(120)] {
        let pattern = pattern(&text);
        assert!(!pattern.matches(format!("/{}\u{e9}/", "a".repeat(4000)).as_bytes()) || text.contains("**"));
    }
}

#[test]
fn a_slash_at_the_end_is_left_out() {
    let plain = pattern("/a/*/b");
    assert_eq!(pattern("/a/*/b/"), plain);
    assert_eq!(pattern("/a/*/b/").to_string(), "/a/*/b");
    assert!(pattern("/").matches(b"/") && !pattern("/").matches(b"/a"));
}

#[test]
fn literals_stand_together() {
    let parts = pattern("/a\\*b*{c,d}").parts().to_vec();
    let literal = |text: &str| Part::Literal(text.into());
    assert_eq!(
        parts,
        [literal("/a*b"), Part::AnyRun, Part::Alternatives(vec![vec![literal("c")], vec![literal("d")]])]
    );
}
