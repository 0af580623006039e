//! Compares two measurements.

use super::rank::{self, Difference};
use super::report::BenchReport;
use crate::table;

/// A table of the stages that both reports have.
pub(super) fn table(before: &BenchReport, after: &BenchReport) -> String {
    let heads = ["STAGE", "BEFORE", "AFTER", "RATIO", "CHANCE", ""].map(str::to_owned).to_vec();
    let mut rows = vec![heads];
    for old in &before.stages {
        let Some(new) = after.stages.iter().find(|new| new.name == old.name) else { continue };
        let (chance, verdict) = match rank::compare(&old.times, &new.times) {
            Difference::TooFew => ("-".to_owned(), "too few to tell"),
            Difference::Chance(chance) if chance >= rank::LEVEL => {
                (format!("{chance:.3}"), "no difference seen")
            }
            Difference::Chance(chance) => {
                (format!("{chance:.3}"), if new.p50 < old.p50 { "faster" } else { "slower" })
            }
        };
        rows.push(vec![
            old.name.clone(),
            format!("{:.1} ms", old.p50),
            format!("{:.1} ms", new.p50),
            format!("{:.2}", new.p50 / old.p50),
            chance,
            verdict.to_owned(),
        ]);
    }
    table::render(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str, times: std::ops::Range<u32>) -> BenchReport {
        let mut report = BenchReport::new("firecracker", 1, 1);
        for time in times {
            report.add(Ok(vec![(name.into(), f64::from(time))]));
        }
        report
    }

    #[test]
    fn stages_of_both_reports_get_a_verdict() {
        let table = |before, after| table(&report("boot", before), &report("boot", after));
        assert!(table(0..20, 100..120).ends_with("0.000    slower\n"));
        assert!(table(100..120, 0..20).ends_with("faster\n"));
        assert!(table(0..20, 0..20).ends_with("no difference seen\n"));
        assert!(table(0..2, 100..102).ends_with("too few to tell\n"));
    }

    #[test]
    fn a_stage_of_only_one_report_is_left_out() {
        let table = table(&report("boot", 0..9), &report("reconnect", 0..9));
        assert_eq!(table.lines().count(), 1);
    }
}
