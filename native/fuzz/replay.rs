//! What `cargo test` tries of a fuzz target: its corpus, and a bounded number of mutations of it, always the same.
use std::fs;
use std::path::Path;

/// Gives a target its corpus, and mutations of it.
pub fn replay(name: &str, target: fn(&[u8])) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut seeds: Vec<Vec<u8>> = vec![vec![]];
    let mut files: Vec<_> = fs::read_dir(&directory).expect("a corpus").map(|file| file.unwrap().path()).collect();
    files.sort();
    seeds.extend(files.iter().map(|file| fs::read(file).unwrap()));
    assert!(seeds.len() > 1, "{} is empty", directory.display());
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for seed in &seeds {
        target(seed);
    }
    for round in 0..ROUNDS {
        let mut input = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            random.mutate(&mut input, &seeds);
        }
        target(&input);
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn mutate(&mut self, input: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(input.len() + 1);
        match self.below(6) {
            0 => input.truncate(at),
            1 => input.insert(at, self.next() as u8),
            2 => {
                let other = &seeds[self.below(seeds.len())];
                let piece = &other[self.below(other.len() + 1)..];
                input.splice(at.., piece.iter().copied());
            }
            3 if at < input.len() => input[at] = INTERESTING[self.below(INTERESTING.len())],
            4 if at < input.len() => input[at] ^= 1 << self.below(8),
            _ if at < input.len() => drop(input.remove(at)),
            _ => {}
        }
    }
}

const ROUNDS: usize = 4000;
const INTERESTING: [u8; 8] = [0, 1, 4, 0x20, 0x7f, 0x80, 0x82, 0xff];
