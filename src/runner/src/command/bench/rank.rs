//! The rank test of Mann, Whitney and Wilcoxon: whether one of two samples tends to be larger. It
//! looks at the order of times only, so an outlier weighs no more than any other.

/// The significance level.
pub(super) const LEVEL: f64 = 0.01;
/// The smallest sample for which the normal approximation holds.
const FEWEST: usize = 8;

/// How two samples differ.
#[derive(Debug, PartialEq)]
pub(super) enum Difference {
    /// The samples are too small.
    TooFew,
    /// The p-value: the chance that equal distributions differ this much.
    Chance(f64),
}

pub(super) fn compare(first: &[f64], second: &[f64]) -> Difference {
    if first.len().min(second.len()) < FEWEST {
        return Difference::TooFew;
    }
    let (ranks, ties) = ranks(first, second);
    let (n, m) = (first.len() as f64, second.len() as f64);
    let total = n + m;
    let u = ranks - n * (n + 1.0) / 2.0;
    let variance = n * m / 12.0 * ((total + 1.0) - ties / (total * (total - 1.0)));
    if variance <= 0.0 {
        return Difference::Chance(1.0);
    }
    // Half a step towards the middle, as ranks are whole numbers.
    let distance = ((u - n * m / 2.0).abs() - 0.5).max(0.0);
    Difference::Chance(two_sided(distance / variance.sqrt()))
}

/// The sum of the first sample's ranks, and the sum of t³ − t over groups of t equal values.
fn ranks(first: &[f64], second: &[f64]) -> (f64, f64) {
    let mut all: Vec<(f64, bool)> = first.iter().map(|value| (*value, true)).collect();
    all.extend(second.iter().map(|value| (*value, false)));
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut sum, mut ties, mut before) = (0.0, 0.0, 0.0);
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let size = group.len() as f64;
        let rank = before + (size + 1.0) / 2.0;
        sum += rank * group.iter().filter(|(_, is_first)| *is_first).count() as f64;
        ties += size.powi(3) - size;
        before += size;
    }
    (sum, ties)
}

/// The chance that a normal variable is as far from its mean, in standard deviations; by Abramowitz
/// and Stegun, formula 7.1.26, which is exact to 1.5e-7.
fn two_sided(z: f64) -> f64 {
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let terms = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    let polynomial = terms.iter().fold(0.0, |sum, term| sum * t + term) * t;
    (polynomial * (-x * x).exp()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chance(first: &[f64], second: &[f64]) -> f64 {
        let Difference::Chance(chance) = compare(first, second) else { panic!("too few") };
        chance
    }

    #[test]
    fn the_normal_distribution_is_as_in_the_tables() {
        for (z, expected) in [(0.0, 1.0), (1.0, 0.317_311), (1.96, 0.049_996), (2.576, 0.009_995)] {
            assert!((two_sided(z) - expected).abs() < 1e-5, "{z}: {}", two_sided(z));
        }
    }

    #[test]
    fn the_rank_test_matches_a_worked_example() {
        // Of 100 pairs the second is larger in 79, so U is 21; z = (29 - 0.5) / sqrt(175) = 2.154.
        let first = [11.0, 12.0, 13.0, 14.0, 15.0, 16.0, 17.0, 18.0, 19.0, 20.0];
        let second = first.map(|value| value + 3.5);
        let chance = chance(&first, &second);
        assert!((chance - 0.0312).abs() < 1e-4, "{chance}");
    }

    #[test]
    fn one_outlier_is_not_significant() {
        let first: Vec<f64> = (0..20).map(f64::from).collect();
        let mut second = first.clone();
        second[0] = 1e9;
        assert!(chance(&first, &second) > 0.5);
    }

    #[test]
    fn equal_samples_are_not_significantly_different() {
        assert_eq!(compare(&[5.0; 10], &[5.0; 12]), Difference::Chance(1.0));
    }
}
