//! Aligned tables.

/// A table with a title; the first column is text, the others are figures.
pub struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Self { title: title.into(), rows: vec![columns.iter().map(|name| (*name).to_owned()).collect()] }
    }

    pub fn row(&mut self, name: impl Into<String>, figures: impl IntoIterator<Item = String>) {
        let mut row = vec![name.into()];
        row.extend(figures);
        self.rows.push(row);
    }

    pub fn print(&self) {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..columns).map(width).collect();
        println!("\n{}", self.title);
        for row in &self.rows {
            let mut line = format!("  {:<1$}", row[0], widths[0]);
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                line.extend([format!("  {cell:>width$}")]);
            }
            println!("{}", line.trim_end());
        }
    }
}

/// `ours` and `floor` and their ratio, as three cells.
pub fn compared(ours: f64, floor: f64, decimals: usize) -> [String; 3] {
    [format!("{ours:.decimals$}"), format!("{floor:.decimals$}"), format!("{:.2}", ours / floor)]
}
