//! Tables: rows of one width, sorted by their bytes, in blocks that carry a checksum.
//!
//! Read a block at a time from the file, so that a table costs no memory; a damaged block is an
//! error, never a wrong row. Knows nothing of what a row means.

use super::disk::File;
use std::io;

/// What is read at once.
pub const BLOCK_BYTES: usize = 4096;
const CRC_BYTES: usize = 4;

/// Where a table stands in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Where its first block begins.
    pub start: u64,
    /// How many rows it has.
    pub rows: u64,
    /// Bytes of a row.
    pub width: usize,
}

impl Table {
    /// Appends the blocks of `rows`, which are sorted, and tells where they stand in `out`.
    pub fn append<'a>(
        rows: impl ExactSizeIterator<Item = &'a [u8]>,
        width: usize,
        out: &mut Vec<u8>,
    ) -> Table {
        let table = Table { start: u64_of(out.len()), rows: u64_of(rows.len()), width };
        let mut block = Vec::with_capacity(BLOCK_BYTES);
        for row in rows {
            assert_eq!(row.len(), width, "rows are of one width");
            if block.len() + width > BLOCK_BYTES - CRC_BYTES {
                seal(&mut block, out);
            }
            block.extend_from_slice(row);
        }
        if !block.is_empty() {
            seal(&mut block, out);
        }
        table
    }

    /// Where it ends in its file.
    pub fn end(&self) -> u64 {
        let blocks = self.rows.div_ceil(self.rows_per_block());
        self.start + blocks * u64_of(BLOCK_BYTES)
    }

    /// Reads it from its file.
    pub fn reader<'a>(&self, file: &'a dyn File) -> Reader<'a> {
        Reader { table: *self, file, number: None, block: Vec::new() }
    }

    fn rows_per_block(&self) -> u64 {
        u64_of((BLOCK_BYTES - CRC_BYTES) / self.width)
    }
}

/// Reads rows; keeps the block of the last one.
pub struct Reader<'a> {
    table: Table,
    file: &'a dyn File,
    number: Option<u64>,
    block: Vec<u8>,
}

impl Reader<'_> {
    /// The first row that is not below `key`, or the number of rows.
    ///
    /// # Errors
    /// When the file cannot be read, or a block is damaged.
    pub fn lower_bound(&mut self, key: &[u8]) -> io::Result<u64> {
        let (mut low, mut high) = (0, self.table.rows);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.row(middle)?.expect("it is below the number of rows") < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// A row; none at the end.
    ///
    /// # Errors
    /// When the file cannot be read, or a block is damaged.
    pub fn row(&mut self, row: u64) -> io::Result<Option<&[u8]>> {
        if row >= self.table.rows {
            return Ok(None);
        }
        let per_block = self.table.rows_per_block();
        let number = row / per_block;
        if self.number != Some(number) {
            self.number = None;
            self.load(number)?;
            self.number = Some(number);
        }
        let at = usize::try_from(row % per_block).expect("within a block") * self.table.width;
        Ok(Some(&self.block[at..at + self.table.width]))
    }

    fn load(&mut self, number: u64) -> io::Result<()> {
        self.block.resize(BLOCK_BYTES, 0);
        let at = self.table.start + number * u64_of(BLOCK_BYTES);
        self.file.read_at(&mut self.block, at)?;
        let (rows, crc) = self.block.split_at(BLOCK_BYTES - CRC_BYTES);
        if crc32c::crc32c(rows).to_le_bytes() != crc {
            let why = format!("the block at byte {at} is damaged");
            return Err(io::Error::new(io::ErrorKind::InvalidData, why));
        }
        Ok(())
    }
}

fn seal(block: &mut Vec<u8>, out: &mut Vec<u8>) {
    block.resize(BLOCK_BYTES - CRC_BYTES, 0);
    let crc = crc32c::crc32c(block);
    out.append(block);
    out.extend_from_slice(&crc.to_le_bytes());
}

fn u64_of(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("usize fits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A table of every other number below twice `rows`.
    fn check(rows: u32, width: usize) {
        let row = |number: u32| [&vec![0; width - 4][..], &number.to_be_bytes()].concat();
        let all: Vec<Vec<u8>> = (0..rows).map(|number| row(2 * number + 1)).collect();
        let mut bytes = b"before".to_vec();
        let table = Table::append(all.iter().map(Vec::as_slice), width, &mut bytes);
        assert_eq!((table.rows, table.end()), (u64::from(rows), u64_of(bytes.len())));
        let file = tempfile::tempfile().expect("a file");
        file.write_at(&bytes, 0).expect("written");
        let mut reader = table.reader(&file);
        for number in 0..=rows {
            let found = reader.lower_bound(&row(2 * number)).expect("whole");
            assert_eq!(found, u64::from(number), "{rows} rows of {width} bytes");
            let expect = (number < rows).then(|| row(2 * number + 1));
            assert_eq!(reader.row(found).expect("whole"), expect.as_deref());
        }
    }

    #[test]
    fn every_row_is_found_and_what_is_not_there_is_not() {
        for rows in [0, 1, 2, 203, 204, 205, 206, 1_000] {
            check(rows, 20);
            check(rows, 28);
        }
    }

    #[test]
    fn a_flipped_bit_is_never_a_row() {
        let rows: Vec<[u8; 20]> = (0..=u8::MAX).map(|number| [number; 20]).collect();
        let mut bytes = Vec::new();
        let table = Table::append(rows.iter().map(|row| &row[..]), 20, &mut bytes);
        for at in (0..BLOCK_BYTES).step_by(7) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            let file = tempfile::tempfile().expect("a file");
            let file: &fs::File = &file;
            file.write_at(&flipped, 0).expect("written");
            let why = table.reader(file).row(0).expect_err("damaged");
            assert_eq!(why.kind(), io::ErrorKind::InvalidData, "byte {at}");
            assert_eq!(table.reader(file).row(255).expect("another block"), Some(&[255; 20][..]));
        }
    }
}
