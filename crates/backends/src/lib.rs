//! Queue, progress and object store: a trait each, an embedded implementation each, a conformance suite each.
