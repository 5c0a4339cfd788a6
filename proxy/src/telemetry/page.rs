//! What is counted, as families of samples: no form yet. [`super::text_form`] and [`super::protobuf_form`] write it for
//! Prometheus, [`super::otlp_metrics`] pushes it.

use super::cells::{BUCKETS_US, FINE};
use super::exemplar::Exemplar;
use super::names::Family;

/// Every family once, with its samples.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) families: Vec<Samples>,
}

/// Of one family.
#[derive(Debug)]
pub(super) struct Samples {
    pub(super) family: Family,
    pub(super) samples: Vec<Sample>,
}

#[derive(Debug)]
pub(super) struct Sample {
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: Number,
}

#[derive(Debug)]
pub(super) enum Number {
    Whole(u64),
    Real(f64),
    Durations(Box<Durations>),
}

/// A histogram of all workers together.
#[derive(Debug, Clone)]
pub(super) struct Durations {
    /// The last one is +Inf.
    pub(super) counts: [u64; BUCKETS_US.len() + 1],
    pub(super) sum_us: u64,
    /// Below the first of [`FINE`].
    pub(super) zero: u64,
    pub(super) fine: [u64; FINE],
    /// One for each of `counts`, where a request of it was traced.
    pub(super) exemplars: [Option<(Exemplar, u64)>; BUCKETS_US.len() + 1],
}

impl Default for Durations {
    fn default() -> Durations {
        let exemplars = [None; BUCKETS_US.len() + 1];
        Durations { counts: [0; BUCKETS_US.len() + 1], sum_us: 0, zero: 0, fine: [0; FINE], exemplars }
    }
}

impl Durations {
    pub(super) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum_seconds(&self) -> f64 {
        self.sum_us as f64 / 1e6
    }
}

impl From<u64> for Number {
    fn from(count: u64) -> Number {
        Number::Whole(count)
    }
}

impl From<u32> for Number {
    fn from(count: u32) -> Number {
        Number::Whole(count.into())
    }
}

impl From<usize> for Number {
    fn from(count: usize) -> Number {
        Number::Whole(count as u64)
    }
}

impl From<i64> for Number {
    fn from(number: i64) -> Number {
        u64::try_from(number).map_or(Number::Real(number as f64), Number::Whole)
    }
}

impl From<f64> for Number {
    fn from(number: f64) -> Number {
        Number::Real(number)
    }
}

impl From<Durations> for Number {
    fn from(durations: Durations) -> Number {
        Number::Durations(Box::new(durations))
    }
}

impl Page {
    pub(super) fn family(&mut self, family: Family) {
        self.families.push(Samples { family, samples: Vec::new() });
    }

    pub(super) fn single(&mut self, family: Family, value: impl Into<Number>) {
        self.family(family);
        self.sample(&[], value);
    }

    /// Of the family that was begun last.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: impl Into<Number>) {
        let Some(of) = self.families.last_mut() else { return };
        let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        of.samples.push(Sample { labels, value: value.into() });
    }
}
