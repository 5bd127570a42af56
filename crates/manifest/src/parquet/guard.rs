//! What stands between the library's decoders and the pages: what only a page's unpacked bytes show.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parquet::basic::{Encoding, Type as Physical};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{FileReader, RowGroupReader};
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;

use super::thrift::Walk;
use crate::raw::MAX_LINE_BYTES;

/// The most values, empty ones included, that the pages of lists may have for one row: all values of a row are held, 36
/// bytes each.
const MAX_VALUES_A_ROW: u64 = 1_000_000;

/// The largest page whose lengths stand apart from its cells.
const MAX_LENGTHS_PAGE: usize = 8 << 20;

/// Values that pages of lists held since the last row was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<AtomicU64>);

impl Held {
    /// A row was read.
    pub(super) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    fn add(&self, values: u64) -> Result<()> {
        if self.0.fetch_add(values, Ordering::Relaxed) + values > MAX_VALUES_A_ROW {
            return Err(ParquetError::General(format!("a row has more than {MAX_VALUES_A_ROW} values")));
        }
        Ok(())
    }
}

/// A file whose pages are looked at.
pub(super) struct Guarded<F> {
    pub(super) file: F,
    pub(super) held: Held,
}

impl<F: FileReader> FileReader for Guarded<F> {
    fn metadata(&self) -> &ParquetMetaData {
        self.file.metadata()
    }

    fn num_row_groups(&self) -> usize {
        self.file.num_row_groups()
    }

    fn get_row_group(&self, place: usize) -> Result<Box<dyn RowGroupReader + '_>> {
        let group = self.file.get_row_group(place)?;
        Ok(Box::new(Group { group, held: self.held.clone() }))
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_file(projection, self)
    }
}

struct Group<'a> {
    group: Box<dyn RowGroupReader + 'a>,
    held: Held,
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.group.metadata()
    }

    fn num_columns(&self) -> usize {
        self.group.num_columns()
    }

    fn get_column_page_reader(&self, place: usize) -> Result<Box<dyn PageReader>> {
        let column = self.group.metadata().column(place).column_descr_ptr();
        Ok(Box::new(Pages {
            pages: self.group.get_column_page_reader(place)?,
            levels: (column.max_rep_level() > 0, column.max_def_level() > 0),
            is_text: column.physical_type() == Physical::BYTE_ARRAY,
            held: self.held.clone(),
        }))
    }

    fn get_column_bloom_filter(&self, place: usize) -> Option<&Sbbf> {
        self.group.get_column_bloom_filter(place)
    }

    fn get_row_iter(&self, projection: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(projection, self)
    }
}

struct Pages {
    pages: Box<dyn PageReader>,
    /// Whether a page has repetition levels, and definition levels.
    levels: (bool, bool),
    /// Whether its values have lengths of their own.
    is_text: bool,
    held: Held,
}

impl Pages {
    fn look(&self, page: &Page) -> Result<()> {
        let (is_list, _) = self.levels;
        if page.is_data_page() && is_list {
            self.held.add(u64::from(page.num_values()))?;
        }
        if !self.is_text {
            return Ok(());
        }
        match page.encoding() {
            Encoding::DELTA_LENGTH_BYTE_ARRAY => lengths_fit(self.values(page)?, page.num_values()),
            Encoding::PLAIN => cells_fit(self.values(page)?),
            _ if page.is_dictionary_page() => cells_fit(self.values(page)?),
            _ => Ok(()),
        }
    }

    /// What follows the levels of a page.
    fn values<'a>(&self, page: &'a Page) -> Result<&'a [u8]> {
        let mut values = page.buffer().as_ref();
        match page {
            Page::DataPage { .. } => {
                let (is_list, may_be_empty) = self.levels;
                for _ in 0..u8::from(is_list) + u8::from(may_be_empty) {
                    values = after_levels(values)?;
                }
                Ok(values)
            }
            Page::DataPageV2 { rep_levels_byte_len, def_levels_byte_len, .. } => {
                let levels = *rep_levels_byte_len as usize + *def_levels_byte_len as usize;
                values.get(levels..).ok_or_else(cut_off)
            }
            Page::DictionaryPage { .. } => Ok(values),
        }
    }
}

/// Refuses cells that are longer than a row may be: the library copies each, and an error of it prints all of one.
fn cells_fit(mut cells: &[u8]) -> Result<()> {
    while let Some((length, rest)) = cells.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        if length > MAX_LINE_BYTES {
            let message = format!("a cell has {length} bytes; at most {MAX_LINE_BYTES} are allowed");
            return Err(ParquetError::General(message));
        }
        cells = rest.get(length..).ok_or_else(cut_off)?;
    }
    Ok(())
}

/// Refuses more lengths than there are values: all of them are read at once. And pages in which a cell could be large.
fn lengths_fit(values: &[u8], count: u32) -> Result<()> {
    if values.is_empty() {
        return Ok(());
    }
    if values.len() > MAX_LENGTHS_PAGE {
        return Err(ParquetError::General("a page of DELTA_LENGTH_BYTE_ARRAY has more than 8 MiB".to_owned()));
    }
    // The sizes of a block and of its parts, then how many lengths there are.
    let mut walk = Walk::new(values);
    let lengths = walk.unsigned().and_then(|_| walk.unsigned()).and_then(|_| walk.unsigned());
    match lengths {
        Ok(lengths) if lengths <= u64::from(count) => Ok(()),
        Ok(_) => Err(ParquetError::General("a page has more lengths than values".to_owned())),
        Err(_) => Err(cut_off()),
    }
}

/// What follows the levels of a page of the first version, whose length stands before them.
fn after_levels(page: &[u8]) -> Result<&[u8]> {
    let (length, rest) = page.split_first_chunk::<4>().ok_or_else(cut_off)?;
    rest.get(u32::from_le_bytes(*length) as usize..).ok_or_else(cut_off)
}

fn cut_off() -> ParquetError {
    ParquetError::General("a page is cut off".to_owned())
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        page.as_ref().map_or(Ok(()), |page| self.look(page))?;
        Ok(page)
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}
