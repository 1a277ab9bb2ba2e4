//! The results as JUnit's XML, which what runs tests shows.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesText, Event};

use super::{CaseReport, Report, TestReport};

/// The report. With `strict`, gaps are failures of their own.
pub(super) fn xml(report: &Report, strict: bool) -> io::Result<String> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let gaps = |test: &TestReport| if strict { test.gaps.len() } else { 0 };
    let of_gaps: usize = report.tests.iter().map(gaps).sum();
    let [all, failures] = [report.passed + report.failed + of_gaps, report.failed + of_gaps];
    writer
        .create_element("testsuites")
        .with_attribute(("tests", all.to_string().as_str()))
        .with_attribute(("failures", failures.to_string().as_str()))
        .write_inner_content(|writer| report.tests.iter().try_for_each(|test| suite(writer, test, strict)))?;
    String::from_utf8(writer.into_inner()).map(|xml| xml + "\n").map_err(io::Error::other)
}

fn suite(writer: &mut Writer<Vec<u8>>, test: &TestReport, strict: bool) -> io::Result<()> {
    let gaps: &[_] = if strict { &test.gaps } else { &[] };
    let failed = test.cases.iter().filter(|case| !case.pass).count();
    let title = legal(&test.title());
    writer
        .create_element("testsuite")
        .with_attribute(("name", title.as_str()))
        .with_attribute(("file", legal(&test.file.display().to_string()).as_str()))
        .with_attribute(("tests", (test.cases.len() + gaps.len()).to_string().as_str()))
        .with_attribute(("failures", (failed + gaps.len()).to_string().as_str()))
        .write_inner_content(|writer| {
            for case in &test.cases {
                let CaseReport { name, line, pass, .. } = case;
                let file = test.file.display().to_string();
                let problem = (!pass).then(|| case.problem());
                self::case(writer, &title, name, Some((&file, *line)), problem.as_deref())?;
            }
            gaps.iter().try_for_each(|gap| {
                let name = format!("{} {} is enforced", gap.policy, gap.field);
                self::case(writer, &title, &name, None, Some(&gap.to_string()))
            })
        })?;
    Ok(())
}

fn case(
    writer: &mut Writer<Vec<u8>>,
    class: &str,
    name: &str,
    place: Option<(&str, usize)>,
    problem: Option<&str>,
) -> io::Result<()> {
    let mut element = writer
        .create_element("testcase")
        .with_attribute(("classname", class))
        .with_attribute(("name", legal(name).as_str()));
    if let Some((file, line)) = place {
        element = element
            .with_attribute(("file", legal(file).as_str()))
            .with_attribute(("line", line.to_string().as_str()));
    }
    let Some(problem) = problem.map(legal) else {
        element.write_empty()?;
        return Ok(());
    };
    element.write_inner_content(|writer| {
        writer
            .create_element("failure")
            .with_attribute(("message", problem.as_str()))
            .write_text_content(BytesText::new(&problem))?;
        Ok(())
    })?;
    Ok(())
}

/// XML 1.0 has no way to write most control characters (section 2.2), not even escaped.
fn legal(text: &str) -> String {
    let legal = |c: char| match c {
        '\t' | '\n' | '\r' => ' ',
        '\u{fffe}' | '\u{ffff}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    text.chars().map(legal).collect()
}
