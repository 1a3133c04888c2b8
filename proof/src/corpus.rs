//! The seeds that once found something: one file each, and they always run first.

use std::fs;
use std::io;
use std::path::PathBuf;

/// Where the files lie: in the repository, so that everybody runs them.
fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The seeds of a layer, in order.
pub fn seeds(layer: &str) -> io::Result<Vec<u64>> {
    let mut seeds = Vec::new();
    match fs::read_dir(directory()) {
        Ok(entries) => {
            for entry in entries {
                seeds.extend(seed_of(layer, &entry?.file_name().to_string_lossy()));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    seeds.sort_unstable();
    Ok(seeds)
}

/// Keeps a seed that found something, with what it found.
pub fn keep(layer: &str, seed: u64, finding: &str) -> io::Result<PathBuf> {
    fs::create_dir_all(directory())?;
    let path = directory().join(format!("{layer}-{seed}"));
    fs::write(&path, format!("{finding}\n"))?;
    Ok(path)
}

fn seed_of(layer: &str, name: &str) -> Option<u64> {
    name.strip_prefix(layer)?.strip_prefix('-')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_the_layer_it_is_named_after() {
        assert_eq!(seed_of("storm", "storm-17"), Some(17));
        assert_eq!(seed_of("storm", "simulate-17"), None);
        assert_eq!(seed_of("storm", "storm-17.txt"), None);
    }
}
