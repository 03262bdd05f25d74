//! Where a database is.

use std::fmt;

use super::super::{Failure, Result};

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A file.
    Sqlite,
    /// A PostgreSQL server.
    Postgres,
    /// A MySQL or MariaDB server.
    MySql,
}

/// The URL of a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The kind.
    pub engine: Engine,
    /// The path of the file, or the whole URL.
    pub text: String,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// It begins with none of the known words.
    pub fn parse(option: &str, text: &str) -> Result<Self> {
        let path = text.strip_prefix("sqlite:").map(|path| path.strip_prefix("//").unwrap_or(path));
        let (engine, text) = match (path, text.split_once("://").map(|(scheme, _)| scheme)) {
            (Some(path), _) if !path.is_empty() => (Engine::Sqlite, path),
            (None, Some("postgres" | "postgresql")) => (Engine::Postgres, text),
            (None, Some("mysql" | "mariadb")) => (Engine::MySql, text),
            _ => {
                return Err(Failure::new(format!(
                    "{option} takes sqlite:PATH, postgres://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE, \
                     not '{text}'"
                )));
            }
        };
        Ok(Self { engine, text: text.to_owned() })
    }
}

/// Without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = &self.text;
        match (self.engine, text.split_once("://"), text.rfind('@')) {
            (Engine::Sqlite, ..) => write!(f, "sqlite:{text}"),
            (_, Some((scheme, rest)), Some(at)) => {
                let user = rest.split([':', '@']).next().unwrap_or_default();
                write!(f, "{scheme}://{user}{}", &text[at..])
            }
            _ => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_and_shown_without_passwords() {
        for (text, engine, shown) in [
            ("sqlite:shop.db", Engine::Sqlite, "sqlite:shop.db"),
            ("sqlite:///var/shop.db", Engine::Sqlite, "sqlite:/var/shop.db"),
            ("postgres://ada:se:cr@t@db:5432/shop", Engine::Postgres, "postgres://ada@db:5432/shop"),
            ("mariadb://db/shop", Engine::MySql, "mariadb://db/shop"),
        ] {
            let address = Address::parse("--old", text).unwrap();
            assert_eq!((address.engine, address.to_string().as_str()), (engine, shown));
        }
        for text in ["shop.db", "sqlite:", "oracle://db/shop"] {
            let error = Address::parse("--new", text).unwrap_err().to_string();
            assert!(error.contains("--new takes sqlite:PATH") && error.contains(text), "{error}");
        }
    }
}
