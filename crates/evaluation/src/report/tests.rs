//! What the report promises of rows that tests write.
