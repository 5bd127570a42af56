//! Conditions on measures, such as `clip > 26 and not (lpips_alex >= 0.2 or coverage >= 0.6)`.
//!
//! ```text
//! any  := all { "or" all }
//! all  := one { "and" one }
//! one  := "not" one | "(" any ")" | measure sign number
//! sign := "<" | "<=" | ">" | ">=" | "=" | "==" | "!="
//! ```
//! A comparison of a measure that a picture does not have is false.

use std::collections::BTreeMap;
use std::str::FromStr;

use super::catalogue::by_name;

/// Deeper than anyone writes, and shallow enough for the stack.
const DEEPEST: usize = 64;

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Expression {
    /// Every one of them.
    All(Vec<Expression>),
    /// At least one of them.
    Any(Vec<Expression>),
    /// Not this.
    Not(Box<Expression>),
    /// A measure against a number.
    Compare(&'static str, Sign, f64),
}

/// How two numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    More,
    /// `>=`
    AtLeast,
    /// `=` or `==`
    Equal,
    /// `!=`
    Unequal,
}

/// Why a text is no condition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}\n{:>1$} {message}", "^", at + 1)]
pub struct ExpressionError {
    /// The text.
    pub text: String,
    /// Characters before the fault.
    pub at: usize,
    /// What was expected.
    pub message: String,
}

impl Expression {
    /// Whether a picture with these measures fulfils it.
    pub fn holds(&self, measures: &BTreeMap<String, f64>) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(measures)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(measures)),
            Self::Not(part) => !part.holds(measures),
            Self::Compare(name, sign, number) => measures.get(*name).is_some_and(|value| match sign {
                Sign::Less => value < number,
                Sign::AtMost => value <= number,
                Sign::More => value > number,
                Sign::AtLeast => value >= number,
                Sign::Equal => value == number,
                Sign::Unequal => value != number,
            }),
        }
    }

    /// The measures that it names.
    pub fn measures(&self) -> Vec<&'static str> {
        match self {
            Self::All(parts) | Self::Any(parts) => parts.iter().flat_map(Self::measures).collect(),
            Self::Not(part) => part.measures(),
            Self::Compare(name, ..) => vec![name],
        }
    }
}

impl FromStr for Expression {
    type Err = ExpressionError;

    fn from_str(text: &str) -> Result<Self, ExpressionError> {
        let mut parser = Parser { text, tokens: tokens(text)?, at: 0 };
        let whole = parser.any(0)?;
        match parser.at < parser.tokens.len() {
            true => Err(parser.error("and, or, or the end was expected")),
            false => Ok(whole),
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Number(f64),
    Sign(Sign),
    Open,
    Close,
}

struct Parser<'a> {
    text: &'a str,
    /// With the characters before each.
    tokens: Vec<(usize, Token)>,
    at: usize,
}

impl Parser<'_> {
    fn any(&mut self, depth: usize) -> Result<Expression, ExpressionError> {
        let mut parts = vec![self.all(depth)?];
        while self.takes_word("or") {
            parts.push(self.all(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::Any(parts) })
    }

    fn all(&mut self, depth: usize) -> Result<Expression, ExpressionError> {
        let mut parts = vec![self.one(depth)?];
        while self.takes_word("and") {
            parts.push(self.one(depth)?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expression::All(parts) })
    }

    fn one(&mut self, depth: usize) -> Result<Expression, ExpressionError> {
        if depth > DEEPEST {
            return Err(self.error("it is nested too deeply"));
        }
        if self.takes_word("not") {
            return Ok(Expression::Not(Box::new(self.one(depth + 1)?)));
        }
        if self.takes(&Token::Open) {
            let inner = self.any(depth + 1)?;
            return if self.takes(&Token::Close) { Ok(inner) } else { Err(self.error("a ) is missing")) };
        }
        let name = self.measure()?;
        let Some((_, Token::Sign(sign))) = self.tokens.get(self.at) else {
            return Err(self.error("< <= > >= = or != was expected"));
        };
        let sign = *sign;
        self.at += 1;
        let Some((_, Token::Number(number))) = self.tokens.get(self.at) else {
            return Err(self.error("a number was expected"));
        };
        let number = *number;
        self.at += 1;
        Ok(Expression::Compare(name, sign, number))
    }

    fn measure(&mut self) -> Result<&'static str, ExpressionError> {
        let Some((_, Token::Word(word))) = self.tokens.get(self.at) else {
            return Err(self.error("a measure was expected, such as psnr > 24"));
        };
        let measure = by_name(word).map_err(|problem| self.error(&problem))?;
        self.at += 1;
        Ok(measure.name)
    }

    fn takes(&mut self, token: &Token) -> bool {
        let is_it = self.tokens.get(self.at).is_some_and(|(_, next)| next == token);
        self.at += usize::from(is_it);
        is_it
    }

    fn takes_word(&mut self, word: &str) -> bool {
        let is_it = |next: &Token| matches!(next, Token::Word(next) if next.eq_ignore_ascii_case(word));
        let is_it = self.tokens.get(self.at).is_some_and(|(_, next)| is_it(next));
        self.at += usize::from(is_it);
        is_it
    }

    fn error(&self, message: &str) -> ExpressionError {
        let at = self.tokens.get(self.at).map_or_else(|| self.text.chars().count(), |(at, _)| *at);
        ExpressionError { text: self.text.to_owned(), at, message: message.to_owned() }
    }
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ExpressionError> {
    let characters: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let begin = at;
        let c = characters[at];
        let run =
            |from: usize, fits: fn(char) -> bool| from + characters[from..].iter().take_while(|c| fits(**c)).count();
        let token = if c.is_whitespace() {
            at += 1;
            continue;
        } else if c.is_ascii_alphabetic() || c == '_' {
            at = run(at, |c| c.is_ascii_alphanumeric() || c == '_');
            Token::Word(characters[begin..at].iter().collect())
        } else if c.is_ascii_digit() || "+-.".contains(c) {
            at = run(at + 1, |c| c.is_ascii_alphanumeric() || c == '.');
            // The sign of an exponent.
            if characters[at - 1].eq_ignore_ascii_case(&'e') && characters.get(at).is_some_and(|c| "+-".contains(*c)) {
                at = run(at + 1, |c| c.is_ascii_digit());
            }
            let number: String = characters[begin..at].iter().collect();
            match number.parse::<f64>().ok().filter(|number| number.is_finite()) {
                Some(number) => Token::Number(number),
                None => return Err(fault(text, begin, format!("{number} is not a number"))),
            }
        } else if "<>=!".contains(c) {
            let pair = characters.get(at + 1) == Some(&'=');
            at += if pair { 2 } else { 1 };
            match (c, pair) {
                ('<', true) => Token::Sign(Sign::AtMost),
                ('<', false) => Token::Sign(Sign::Less),
                ('>', true) => Token::Sign(Sign::AtLeast),
                ('>', false) => Token::Sign(Sign::More),
                ('=', _) => Token::Sign(Sign::Equal),
                ('!', true) => Token::Sign(Sign::Unequal),
                _ => return Err(fault(text, begin, "! is not used alone: write not, or !=".to_owned())),
            }
        } else if c == '(' || c == ')' {
            at += 1;
            if c == '(' { Token::Open } else { Token::Close }
        } else {
            return Err(fault(text, begin, format!("{c:?} has no meaning here")));
        };
        tokens.push((begin, token));
    }
    Ok(tokens)
}

fn fault(text: &str, at: usize, message: String) -> ExpressionError {
    ExpressionError { text: text.to_owned(), at, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(text: &str, measures: &[(&str, f64)]) -> bool {
        let measures = measures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        text.parse::<Expression>().unwrap().holds(&measures)
    }

    #[test]
    fn and_binds_closer_than_or_and_not_closest() {
        let measures = [("psnr", 20.0), ("clip", 27.0), ("coverage", 0.3)];
        assert!(holds("clip > 26 and coverage < 0.6 or psnr > 99", &measures));
        assert!(holds("psnr > 99 or clip > 26 and coverage < 0.6", &measures));
        assert!(!holds("(psnr > 99 or clip > 26) and coverage < 1e-1", &measures));
        assert!(holds("not psnr > 20 and psnr >= 20.0 AND psnr = 20 and psnr != 21", &measures));
    }

    #[test]
    fn a_measure_that_a_picture_has_not_fulfils_nothing() {
        assert!(!holds("ssim < 1", &[]) && !holds("ssim > 0", &[]) && holds("not ssim > 0", &[]));
    }

    #[test]
    fn what_does_not_parse_is_refused_with_its_place() {
        for (text, at, expected) in [
            ("", 0, "a measure was expected"),
            ("psnr >", 6, "a number was expected"),
            ("psnr 24", 5, "< <= > >= = or != was expected"),
            ("psnr > 24 clip > 3", 10, "and, or, or the end"),
            ("(psnr > 24", 10, "a ) is missing"),
            ("psnr > 24 and", 13, "a measure was expected"),
            ("lpisp < 0.2", 0, "lpisp is not a measure; did you mean lpips_"),
            ("psnr > 2.4.1", 7, "2.4.1 is not a number"),
            ("psnr > nan", 7, "a number was expected"),
            ("psnr ! 3", 5, "write not, or !="),
            ("é psnr", 0, "has no meaning here"),
            ("psnr > 24 && clip > 3", 10, "has no meaning here"),
        ] {
            let error = text.parse::<Expression>().unwrap_err();
            assert_eq!(error.at, at, "{text}: {error}");
            assert!(error.message.contains(expected), "{text}: {error}");
        }
        let shown = "psnr 24".parse::<Expression>().unwrap_err().to_string();
        assert!(shown.starts_with("psnr 24\n     ^ <"), "{shown}");
        let deep = "(".repeat(100_000);
        assert!(deep.parse::<Expression>().unwrap_err().message.contains("nested too deeply"));
    }
}
