//! The keyed hash that places a flow in the index.
//!
//! An index that strangers can aim at needs a secret: without the key nobody can choose addresses
//! and ports that meet in one bucket. Where the CPU has AES instructions a key is four of its
//! rounds under five secret round keys, which in a batch costs nothing measurable; elsewhere it is
//! SipHash-1-3. IPv4 fits one block; of IPv6 each address is a block of its own, each under
//! another order of the keys, so that equal addresses do not cancel.
//! Source: FIPS 197 (AES); Aumasson, Bernstein, "SipHash", INDOCRYPT 2012; four keyed rounds
//! bound any differential to 2^-113 (Keliher, Sui, 2007).

use std::{fmt, hash::Hasher as _};

use siphasher::sip::SipHasher13;

use super::{FlowKey, cpu::Aes};
use crate::{addr::Addr, rng::Rng};

/// The secret the hash is keyed with: five AES round keys in ten words.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub [u64; 10]);

impl HashKey {
    /// A key anyone can repeat: for simulations, replays and tests.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let mut rng = Rng::from_seed(seed);
        Self([(); 10].map(|()| rng.next_u64()))
    }

    /// A fresh key from the operating system: for production.
    ///
    /// # Errors
    ///
    /// Those of `getrandom`.
    pub fn from_os() -> Result<Self, rustix::io::Errno> {
        let mut octets = [0; 80];
        let mut filled = 0;
        while filled < octets.len() {
            filled += rustix::rand::getrandom(
                &mut octets[filled..],
                rustix::rand::GetRandomFlags::empty(),
            )?;
        }
        let mut key = Self([0; 10]);
        for (word, octets) in key.0.iter_mut().zip(octets.as_chunks().0) {
            *word = u64::from_le_bytes(*octets);
        }
        Ok(key)
    }

    /// The words as round keys in each of three orders.
    fn round_keys(&self) -> [[u128; 5]; 3] {
        let key = |i: usize| u128::from(self.0[2 * i + 1]) << 64 | u128::from(self.0[2 * i]);
        std::array::from_fn(|order| std::array::from_fn(|i| key((i + order) % 5)))
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(secret)")
    }
}

/// Where a key belongs: the upper half chooses the bucket, the lower is the tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowHash(pub(super) u64);

impl FlowHash {
    /// All its bits.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Which hash a table was filled with; a number that a mapping's header keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum HashKind {
    /// Four AES rounds.
    Aes = 1,
    /// SipHash-1-3.
    Sip = 2,
}

/// Hashes flow keys.
#[derive(Clone, Copy)]
pub(super) struct FlowHasher {
    keys: [[u128; 5]; 3],
    aes: Option<Aes>,
}

impl fmt::Debug for FlowHasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowHasher({:?})", self.kind())
    }
}

impl FlowHasher {
    /// The best hash this CPU has.
    pub(super) fn new(key: &HashKey) -> Self {
        Self { keys: key.round_keys(), aes: Aes::detect() }
    }

    /// Which hash this is.
    pub(super) const fn kind(&self) -> HashKind {
        if self.aes.is_some() { HashKind::Aes } else { HashKind::Sip }
    }

    /// Hashes the key of an IPv4 packet: source and destination as their octets lie, and its
    /// [`tail`].
    #[inline(always)]
    pub(super) fn hash_v4(&self, addresses: u64, tail: u64) -> FlowHash {
        match self.aes {
            Some(aes) => FlowHash(by_aes_v4(aes, &self.keys, addresses, tail)),
            None => {
                let [source, destination] =
                    halves(addresses.to_ne_bytes()).map(|half| Addr::v4(u32::from_be_bytes(half)));
                FlowHash(by_sip(&self.keys, &key(source, destination, tail)))
            }
        }
    }

    /// Hashes the key of an IPv6 packet, likewise.
    #[inline(always)]
    pub(super) fn hash_v6(&self, addresses: (u128, u128), tail: u64) -> FlowHash {
        match self.aes {
            Some(aes) => FlowHash(by_aes_v6(aes, &self.keys, addresses, tail)),
            None => {
                let (source, destination) =
                    (u128::from_be(addresses.0), u128::from_be(addresses.1));
                let key = key(Addr::v6(source), Addr::v6(destination), tail);
                FlowHash(by_sip(&self.keys, &key))
            }
        }
    }

    /// Hashes `key`.
    #[inline]
    pub(super) fn hash(&self, key: &FlowKey) -> FlowHash {
        match self.aes {
            Some(aes) => FlowHash(by_aes(aes, &self.keys, key)),
            None => FlowHash(by_sip(&self.keys, key)),
        }
    }
}

/// What a key has beside its addresses: both ports as their octets lie in the lower 32 bits, the protocol
/// above them.
#[inline]
fn tail(key: &FlowKey) -> u64 {
    let ports = joined([key.source_port.to_be_bytes(), key.destination_port.to_be_bytes()]);
    u64::from(u32::from_ne_bytes(ports))
        | u64::from(key.protocol) << 32
        | u64::from(key.template) << 40
}

/// Two fields as they lie behind each other.
#[inline(always)]
fn joined<const N: usize, const M: usize>([first, second]: [[u8; N]; 2]) -> [u8; M] {
    std::array::from_fn(|at| if at < N { first[at] } else { second[at - N] })
}

/// The two fields that lie behind each other.
fn halves<const N: usize, const M: usize>(both: [u8; M]) -> [[u8; N]; 2] {
    std::array::from_fn(|half| std::array::from_fn(|at| both[half * N + at]))
}

#[inline]
fn by_aes(aes: Aes, keys: &[[u128; 5]; 3], key: &FlowKey) -> u64 {
    if key.source.is_v4() && key.destination.is_v4() {
        let addresses = [key.source, key.destination].map(|addr| addr.low32().to_be_bytes());
        return by_aes_v4(aes, keys, u64::from_ne_bytes(joined(addresses)), tail(key));
    }
    by_aes_v6(aes, keys, (key.source.bits().to_be(), key.destination.bits().to_be()), tail(key))
}

#[inline(always)]
fn by_aes_v4(aes: Aes, keys: &[[u128; 5]; 3], addresses: u64, tail: u64) -> u64 {
    aes.four_rounds(u128::from(addresses) | u128::from(tail) << 64, &keys[0])
}

#[inline(always)]
fn by_aes_v6(
    aes: Aes,
    keys: &[[u128; 5]; 3],
    (source, destination): (u128, u128),
    tail: u64,
) -> u64 {
    aes.four_rounds(u128::from(tail) << 64 | 1 << 127, &keys[0])
        ^ aes.four_rounds(source, &keys[1])
        ^ aes.four_rounds(destination, &keys[2])
}

/// The key that a packet's fields name.
#[cold]
#[expect(clippy::cast_possible_truncation, reason = "fields of a word")]
fn key(source: Addr, destination: Addr, tail: u64) -> FlowKey {
    let [source_port, destination_port] =
        halves((tail as u32).to_ne_bytes()).map(u16::from_be_bytes);
    FlowKey {
        source,
        destination,
        source_port,
        destination_port,
        protocol: (tail >> 32) as u8,
        template: false,
    }
}

#[cold]
#[inline(never)]
#[expect(clippy::cast_possible_truncation, reason = "the two halves of a key")]
fn by_sip([[words, ..], ..]: &[[u128; 5]; 3], key: &FlowKey) -> u64 {
    let mut sip = SipHasher13::new_with_keys(*words as u64, (*words >> 64) as u64);
    sip.write(&key.source.bits().to_le_bytes());
    sip.write(&key.destination.bits().to_le_bytes());
    sip.write(&tail(key).to_le_bytes());
    sip.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashers(seed: u64) -> Vec<FlowHasher> {
        let best = FlowHasher::new(&HashKey::from_seed(seed));
        vec![best, FlowHasher { aes: None, ..best }]
    }

    fn example(v6: bool) -> FlowKey {
        let addr =
            |low: u32| if v6 { Addr::v6(0xfd << 120 | u128::from(low)) } else { Addr::v4(low) };
        FlowKey {
            source: addr(0x0a00_0001),
            destination: addr(0x0a00_0002),
            source_port: 1024,
            destination_port: 80,
            protocol: 6,
            template: false,
        }
    }

    #[test]
    fn every_part_of_a_key_and_of_the_secret_matters() {
        for hasher in hashers(1) {
            for v6 in [false, true] {
                let base = example(v6);
                let mut seen = vec![hasher.hash(&base).0];
                for changed in [
                    base.reversed(),
                    FlowKey { source: base.destination, ..base },
                    FlowKey { destination: base.source, ..base },
                    FlowKey { source_port: 1025, ..base },
                    FlowKey { destination_port: 81, ..base },
                    FlowKey { source_port: 80, destination_port: 1024, ..base },
                    FlowKey { protocol: 17, ..base },
                    FlowKey { template: true, ..base },
                ] {
                    seen.push(hasher.hash(&changed).0);
                }
                seen.extend(hashers(2).iter().map(|other| other.hash(&base).0));
                let count = seen.len();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), count, "{hasher:?} v6={v6}");
            }
        }
    }

    #[test]
    fn a_packets_fields_hash_as_its_key_does() {
        for hasher in hashers(5) {
            let (v4, v6) = (example(false), example(true));
            let addresses = u64::from_ne_bytes([10, 0, 0, 1, 10, 0, 0, 2]);
            assert_eq!(hasher.hash_v4(addresses, tail(&v4)), hasher.hash(&v4));
            let addresses = (v6.source.bits().to_be(), v6.destination.bits().to_be());
            assert_eq!(hasher.hash_v6(addresses, tail(&v6)), hasher.hash(&v6));
        }
    }

    #[test]
    fn neighbouring_clients_spread_evenly_over_both_halves() {
        for hasher in hashers(7) {
            for v6 in [false, true] {
                let (mut high, mut low) = ([0u32; 64], [0u32; 64]);
                for port in 0..64 * 256 {
                    let hash = hasher.hash(&FlowKey { source_port: port, ..example(v6) }).0;
                    high[(hash >> 58) as usize] += 1;
                    low[(hash >> 1 & 63) as usize] += 1;
                }
                // 256 expected, 16 standard deviation: six of them either way.
                assert!(high.iter().chain(&low).all(|n| (160..352).contains(n)), "{hasher:?}");
            }
        }
    }

    #[test]
    fn keys_from_the_system_differ_and_never_show() {
        let (a, b) = (HashKey::from_os().unwrap(), HashKey::from_os().unwrap());
        assert_ne!(a, b);
        assert_eq!(format!("{a:?}"), "HashKey(secret)");
    }
}
