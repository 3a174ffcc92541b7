//! A table of who may do what, and what everybody was told when it was tried. The lobby node's tests hold its sockets
//! against one, the system's tests REST; what is tried, and how, is theirs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// The columns.
    pub who: &'static [&'static str],
    /// Words of a row's name.
    pub words: usize,
    pub row_width: usize,
    pub cell_width: usize,
}

/// A row that was tried: its section, its name, and what each column was told.
pub type Tried<'a> = (&'a str, String, Vec<String>);

/// A table as it was read: by section and row what each column is told.
#[derive(Debug)]
pub struct Matrix {
    layout: Layout,
    rows: BTreeMap<(String, String), Vec<String>>,
}

impl Matrix {
    /// Reads a table: a section begins with its name in brackets, a line with `#` is a remark, any other is a row.
    ///
    /// # Panics
    /// Where a row stands twice, or has not a cell for each column.
    #[must_use]
    pub fn read(table: &str, layout: Layout) -> Matrix {
        let (mut section, mut rows) = (String::new(), BTreeMap::new());
        for line in table.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_end_matches(']').to_owned();
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let (row, cells) = words.split_at(layout.words);
            let row = row.join(" ");
            assert_eq!(cells.len(), layout.who.len(), "{section} {row}");
            let cells = cells.iter().map(|cell| (*cell).to_owned()).collect();
            assert!(rows.insert((section.clone(), row.clone()), cells).is_none(), "{row} stands twice");
        }
        Matrix { layout, rows }
    }

    /// Holds the table against what was tried.
    ///
    /// # Panics
    /// Where a cell differs, a row is missing, or a row stands there for nothing. The message has the whole table as it
    /// is, to be read and, where it is right, taken over.
    pub fn hold(&self, tried: &[Tried<'_>]) {
        let Layout { who, row_width, cell_width, .. } = self.layout;
        let (mut wrong, mut actual, mut headed) = (String::new(), String::new(), "");
        for (section, row, cells) in tried {
            if *section != headed {
                headed = section;
                writeln!(actual, "\n[{section}]").unwrap();
            }
            let line: String = cells.iter().map(|cell| format!(" {cell:<cell_width$}")).collect();
            writeln!(actual, "{row:<row_width$}{}", line.trim_end()).unwrap();
            let Some(known) = self.rows.get(&((*section).to_owned(), row.clone())) else {
                writeln!(wrong, "{section} {row} has no row").unwrap();
                continue;
            };
            for ((who, known), cell) in
                who.iter().zip(known).zip(cells).filter(|((_, known), cell)| known != cell)
            {
                writeln!(wrong, "{section} {row} by {who}: {cell}, not {known}").unwrap();
            }
        }
        let is_tried = |(section, row): &(String, String)| {
            tried.iter().any(|(of, name, _)| of == section && name == row)
        };
        for (section, row) in self.rows.keys().filter(|key| !is_tried(key)) {
            writeln!(wrong, "{section} {row} is tried by nobody").unwrap();
        }
        assert!(wrong.is_empty(), "{wrong}\nas it is:\n{actual}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout { who: &["ann", "bob"], words: 1, row_width: 6, cell_width: 4 };
    const TABLE: &str = "# who\n[open]\nlook   ok   ok\nkick   ok   no\n[shut]\nlook   no   no\n";

    fn tried(section: &'static str, row: &str, cells: [&str; 2]) -> Tried<'static> {
        (section, row.to_owned(), cells.map(str::to_owned).to_vec())
    }

    fn all() -> Vec<Tried<'static>> {
        vec![
            tried("open", "look", ["ok", "ok"]),
            tried("open", "kick", ["ok", "no"]),
            tried("shut", "look", ["no", "no"]),
        ]
    }

    #[test]
    fn what_fits_is_held() {
        Matrix::read(TABLE, LAYOUT).hold(&all());
    }

    #[test]
    #[should_panic(expected = "open kick by bob: ok, not no")]
    fn another_cell_is_found() {
        let mut told = all();
        told[1] = tried("open", "kick", ["ok", "ok"]);
        Matrix::read(TABLE, LAYOUT).hold(&told);
    }

    #[test]
    #[should_panic(expected = "shut kick has no row")]
    fn a_missing_row_is_found() {
        let mut told = all();
        told.push(tried("shut", "kick", ["no", "no"]));
        Matrix::read(TABLE, LAYOUT).hold(&told);
    }

    #[test]
    #[should_panic(expected = "shut look is tried by nobody")]
    fn a_row_for_nothing_is_found() {
        Matrix::read(TABLE, LAYOUT).hold(&all()[..2]);
    }
}
