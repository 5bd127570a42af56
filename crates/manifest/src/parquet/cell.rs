//! What a cell means: of one of our keys, and of a column of the user's own.

use parquet::basic::{ConvertedType, LogicalType, Repetition, Type as Physical};
use parquet::record::Field;
use parquet::schema::types::Type;
use serde_json::{Number, Value};

/// The JSON of a cell of one of our keys.
pub(super) fn of_key(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::from(text),
            Err(error) => return Err(format!("is not UTF-8 at byte {} of the cell", error.valid_up_to())),
        },
        Field::Float(value) if !value.is_finite() => return Err(format!("{value} is not a usable number")),
        Field::Double(value) if !value.is_finite() => return Err(format!("{value} is not a usable number")),
        Field::ListInternal(list) => list.elements().iter().map(of_key).collect::<Result<Value, _>>()?,
        // A setting is read as near as a number gets; only an id needs every digit.
        Field::Decimal(_) => match decimal(&field.to_string()) {
            Value::String(text) if text.contains('.') => text.parse::<f64>().map_or(Value::from(text), Value::from),
            other => other,
        },
        Field::Group(_) | Field::MapInternal(_) => {
            return Err("is a struct or a map, which no key accepts".to_owned());
        }
        other => of_extra(other),
    })
}

/// The JSON of any cell. What JSON has no word for is null.
pub(super) fn of_extra(field: &Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null | Field::Bytes(_) => Value::Null,
        Field::Bool(value) => Value::from(*value),
        Field::Byte(value) => Value::from(*value),
        Field::Short(value) => Value::from(*value),
        Field::Int(value) => Value::from(*value),
        Field::Long(value) => Value::from(*value),
        Field::UByte(value) => Value::from(*value),
        Field::UShort(value) => Value::from(*value),
        Field::UInt(value) => Value::from(*value),
        Field::ULong(value) => Value::from(*value),
        // Through text, so that 0.9f32 is 0.9 and not 0.8999999761581421.
        Field::Float16(value) => float(value.to_string().parse().unwrap_or(f64::NAN)),
        Field::Float(value) => float(value.to_string().parse().unwrap_or(f64::NAN)),
        Field::Double(value) => float(*value),
        Field::Decimal(_) => decimal(&field.to_string()),
        Field::Str(text) => Value::from(text.as_str()),
        Field::Date(_)
        | Field::TimeMillis(_)
        | Field::TimeMicros(_)
        | Field::TimestampMillis(_)
        | Field::TimestampMicros(_) => Value::from(field.to_string()),
        Field::Group(row) => {
            Value::Object(row.get_column_iter().map(|(name, field)| (name.clone(), of_extra(field))).collect())
        }
        Field::ListInternal(list) => list.elements().iter().map(of_extra).collect(),
        Field::MapInternal(map) => map
            .entries()
            .iter()
            .map(|(key, value)| match of_extra(key) {
                Value::String(key) => (key, of_extra(value)),
                other => (other.to_string(), of_extra(value)),
            })
            .collect(),
    }
}

/// The number that a decimal is: `7.00` is 7. One that no number of JSON's readers holds, such as an id of 30 digits, stays
/// text, so that no digit of it is lost.
fn decimal(text: &str) -> Value {
    let plain = match text.split_once('.') {
        Some((whole, rest)) if rest.trim_matches('0').is_empty() => whole,
        Some(_) => text.trim_end_matches('0'),
        None => text,
    };
    let real = || plain.parse::<f64>().ok().filter(|number| number.to_string() == plain).and_then(Number::from_f64);
    let number = plain.parse::<i64>().ok().map(Value::from).or_else(|| plain.parse::<u64>().ok().map(Value::from));
    number.or_else(|| real().map(Value::Number)).unwrap_or_else(|| Value::from(plain))
}

/// Whether a column of the user's own can be carried: all that is in it is text, numbers, times or switches. Pictures in
/// a table, as bytes, are not even read.
pub(super) fn can_be_carried(column: &Type) -> bool {
    !is_bare_list(column) && all_leaves(column)
}

fn all_leaves(column: &Type) -> bool {
    if column.is_group() {
        column.get_fields().iter().all(|field| all_leaves(field))
    } else {
        leaf_can_be_carried(column)
    }
}

fn leaf_can_be_carried(column: &Type) -> bool {
    let info = column.get_basic_info();
    match column.get_physical_type() {
        Physical::BYTE_ARRAY => matches!(
            info.converted_type(),
            ConvertedType::UTF8 | ConvertedType::ENUM | ConvertedType::JSON | ConvertedType::DECIMAL
        ),
        Physical::FIXED_LEN_BYTE_ARRAY => {
            info.converted_type() == ConvertedType::DECIMAL || info.logical_type_ref() == Some(&LogicalType::Float16)
        }
        Physical::BOOLEAN
        | Physical::INT32
        | Physical::INT64
        | Physical::INT96
        | Physical::FLOAT
        | Physical::DOUBLE => true,
    }
}

/// A field that is repeated without being a list, which the row API turns into nothing readable.
pub(super) fn is_bare_list(column: &Type) -> bool {
    let info = column.get_basic_info();
    info.has_repetition() && info.repetition() == Repetition::REPEATED
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decimal_is_a_number_where_that_loses_no_digit() {
        for (text, number) in
            [("7.00", Value::from(7)), ("-0.50", (-0.5).into()), ("100", 100.into()), ("0.1", 0.1.into())]
        {
            assert_eq!(decimal(text), number, "{text}");
        }
        assert_eq!(decimal("18446744073709551615"), Value::from(u64::MAX));
        for text in ["12345678901234567890123", "12345678901234567890.123", "0.33333333333333333333"] {
            assert_eq!(decimal(text), Value::from(text));
        }
    }
}
