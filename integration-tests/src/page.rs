//! Tables of the documentation that a test measures: what a page says is what the test has found.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A table between two lines of a page.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// The page, from the top of the workspace.
    pub page: &'static str,
    /// The line before the table, with its end.
    pub begin: &'static str,
    /// What stands after it.
    pub end: &'static str,
}

impl Table {
    /// Says what was measured, in a guest, for [`Table::said`].
    pub fn say(&self, measured: &str) {
        println!("{}{measured}{}", self.begin, self.end);
    }

    /// What a guest has measured.
    ///
    /// # Errors
    /// When it has not.
    pub fn said<'a>(&self, text: &'a str) -> Result<&'a str> {
        let table = text.split_once(self.begin).and_then(|(_, rest)| rest.split_once(self.end));
        Ok(table.context("no table was measured")?.0)
    }

    /// Compares the page's table with what was measured; with `UPDATE_GOLDEN` writes it.
    ///
    /// # Errors
    /// When the page has no such table, or another one.
    pub fn compare(&self, measured: &str) -> Result<()> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?.join(self.page);
        let text = fs::read_to_string(&path).with_context(|| self.page)?;
        let (before, rest) =
            text.split_once(self.begin).with_context(|| format!("`{}` has no such table", self.page))?;
        let (known, after) = rest.split_once(self.end).context("the table has no end")?;
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, format!("{before}{}{measured}{}{after}", self.begin, self.end))?;
            return Ok(());
        }
        ensure!(
            known == measured,
            "`{}` is stale: run with UPDATE_GOLDEN=1, and look at what differs; measured:\n{measured}",
            self.page
        );
        Ok(())
    }
}
