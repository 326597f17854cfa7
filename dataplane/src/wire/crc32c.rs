//! CRC32c, the Castagnoli polynomial, which SCTP carries as its checksum.
//!
//! The computation is the `crc32c` crate's: it takes the CPU's own instruction where there is one
//! (SSE 4.2, ARMv8 CRC), chosen at run time, and a table where not.
//! Source: RFC 9260, section 6.8 and appendix A.

/// The CRC of `octets`.
#[inline]
pub fn crc32c(octets: &[u8]) -> u32 {
    ::crc32c::crc32c(octets)
}

/// The CRC of what `crc` is that of, followed by `octets`.
#[inline]
pub fn append(crc: u32, octets: &[u8]) -> u32 {
    ::crc32c::crc32c_append(crc, octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_answers_come_out() {
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// Bit by bit, from the polynomial.
    fn slow(octets: &[u8]) -> u32 {
        let step = |crc: u32| (crc >> 1) ^ (0x82f6_3b78 & 0u32.wrapping_sub(crc & 1));
        !octets.iter().fold(!0, |crc, &octet| (0..8).fold(crc ^ u32::from(octet), |c, _| step(c)))
    }

    proptest! {
        #[test]
        fn the_crc_is_that_of_the_polynomial_in_pieces_too(octets: Vec<u8>, cut: usize) {
            let (first, second) = octets.split_at(cut % (octets.len() + 1));
            prop_assert_eq!(append(crc32c(first), second), slow(&octets));
        }
    }
}
