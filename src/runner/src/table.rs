//! Renders tables with aligned columns.

use crate::terminal::harmless;

/// Renders rows, the first of which is the header. Control characters in cells are escaped.
pub(crate) fn render(rows: &[Vec<String>]) -> String {
    let clean = |cell: &String| harmless(cell).replace(['\n', '\t'], " ");
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(clean).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("   ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// The time since a Unix time in seconds: `5s`, `3m`, `2h`, `4d`.
pub(crate) fn age(since: u64) -> String {
    duration(now().saturating_sub(since))
}

/// The time until a Unix time in seconds, likewise.
#[cfg(feature = "platform")]
pub(crate) fn time_until(time: u64) -> String {
    duration(time.saturating_sub(now()))
}

fn now() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

fn duration(seconds: u64) -> String {
    match seconds {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3_600 => format!("{}m", seconds / 60),
        seconds @ 3_600..86_400 => format!("{}h", seconds / 3_600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_have_no_blanks_at_their_end() {
        let rows = [vec!["A".into(), "B".into()], vec!["long".into(), String::new()]];
        assert_eq!(render(&rows), "A      B\nlong\n");
    }

    #[test]
    fn a_cell_is_one_line_without_control_characters() {
        let rows = [vec!["NAME".into()], vec!["a\x1b[2J\nb".into()]];
        assert_eq!(render(&rows), "NAME\na\\x1b[2J b\n");
    }

    #[test]
    fn an_age_is_not_negative_if_the_clock_went_back() {
        assert_eq!(age(u64::MAX), "0s");
    }
}
