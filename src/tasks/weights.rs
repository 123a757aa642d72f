//! The loaded models of the process. Jobs that use the same model share its weights, which are freed with the last job.
//! Not here: resolving and loading a model (`models`).

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use candle_core::DeviceLocation;

use crate::auto::{AutoClass, AutoModel, ModelWithHead};
use crate::error::{Error, ErrorKind, Result};
use crate::nn::EmbeddingBag;

/// The device, the Auto class, `allow_new_head`, and the rows of a head over the vocabulary, unless all.
pub(super) type HeadKey = (DeviceLocation, AutoClass, bool, Option<Vec<u32>>);

/// The models loaded so far, by key.
pub(super) type Loaded<K, M> = Mutex<Vec<(K, Arc<M>)>>;

/// The loaded forms of one model.
#[derive(Default)]
pub(super) struct Weights {
    /// Without a head, by device.
    pub(super) models: Loaded<DeviceLocation, AutoModel>,
    /// With a head.
    pub(super) with_head: Loaded<HeadKey, ModelWithHead>,
    /// The table of a static embedding.
    pub(super) table: Loaded<(), EmbeddingBag>,
}

/// Every model that a job uses, by its identity.
static KNOWN: Mutex<Vec<(String, Weak<Weights>)>> = Mutex::new(Vec::new());

/// The weights of the model with this identity, which names its files, its dtype and the overrides of its config.
pub(super) fn weights_of(identity: String) -> Arc<Weights> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|(_, weights)| weights.strong_count() > 0);
    let found = known.iter().find(|(other, _)| *other == identity);
    if let Some(weights) = found.and_then(|(_, weights)| weights.upgrade()) {
        return weights;
    }
    let weights = Arc::new(Weights::default());
    known.push((identity, Arc::downgrade(&weights)));
    weights
}

/// Returns the value loaded under `key`, or loads it now. Other threads that use `loaded` wait.
pub(super) fn once<K: PartialEq, M>(
    loaded: &Loaded<K, M>,
    key: K,
    load: impl FnOnce() -> Result<M>,
) -> Result<Arc<M>> {
    let mut loaded = loaded.lock().map_err(|_| {
        Error::new(ErrorKind::Internal, "loading a model panicked in another thread")
    })?;
    if let Some((_, model)) = loaded.iter().find(|(known, _)| *known == key) {
        return Ok(Arc::clone(model));
    }
    let start = Instant::now();
    let model = Arc::new(load()?);
    tracing::info!(seconds = start.elapsed().as_secs_f64(), "model loaded");
    loaded.push((key, Arc::clone(&model)));
    Ok(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_live_as_long_as_a_job_uses_them() {
        let load = |name: &str, value: u32| {
            let weights = weights_of(format!("tests of weights: {name}"));
            let numbers: Loaded<u32, u32> = Mutex::default();
            (once(&numbers, 1, || Ok(value)).unwrap(), weights)
        };
        let (first, second) = (load("a", 1), load("a", 2));
        assert!(Arc::ptr_eq(&first.1, &second.1));
        assert!(!Arc::ptr_eq(&first.1, &load("b", 1).1));
        let gone = Arc::downgrade(&first.1);
        drop(first);
        assert!(gone.upgrade().is_some());
        drop(second);
        assert!(gone.upgrade().is_none());
        load("a", 1);
        let known = KNOWN.lock().unwrap();
        assert!(known.iter().filter(|(name, _)| name == "tests of weights: a").count() <= 1);
    }

    #[test]
    fn a_model_is_loaded_once() {
        let loaded: Loaded<u32, u32> = Mutex::default();
        let mut loads = 0;
        for key in [1, 2, 1, 1] {
            let number = once(&loaded, key, || {
                loads += 1;
                Ok(key * 10)
            });
            assert_eq!(*number.unwrap(), key * 10);
        }
        let failed = once(&loaded, 3, || Err(Error::new(ErrorKind::Model, "damaged")));
        failed.unwrap_err();
        assert_eq!((loads, loaded.lock().unwrap().len()), (2, 2));
    }
}
