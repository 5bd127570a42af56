//! The bundled model, end to end.
