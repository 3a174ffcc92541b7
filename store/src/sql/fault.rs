//! What a database's error means for us. The numbers: sqlite.org/rescode.html, and the error reference of MySQL
//! and MariaDB.

use sqlx::Error;
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The row is there already.
    Duplicate,
    /// Two transactions met; this one was rolled back and may run again at once.
    Deadlock,
    /// The database refuses what the row holds.
    Row,
    /// The schema is not what this release expects, or the database is damaged.
    Incompatible,
    /// Away, busy, full, read-only: later.
    Unavailable,
    /// The database refuses, and only a comparison with other rows can tell whether it is the row's fault.
    Unknown,
}

impl Fault {
    pub(super) fn of(error: &Error) -> Fault {
        match error {
            Error::Database(error) => match error.try_downcast_ref::<MySqlDatabaseError>() {
                Some(mysql) => of_mysql(mysql.number(), mysql.code()),
                None => of_sqlite(error.as_ref()),
            },
            Error::Encode(_) | Error::InvalidArgument(_) => Fault::Row,
            Error::ColumnDecode { .. }
            | Error::Decode(_)
            | Error::ColumnNotFound(_)
            | Error::ColumnIndexOutOfBounds { .. }
            | Error::TypeNotFound { .. } => Fault::Incompatible,
            _ => Fault::Unavailable,
        }
    }
}

fn of_sqlite(error: &dyn DatabaseError) -> Fault {
    let code: i32 = error.code().and_then(|code| code.parse().ok()).unwrap_or_default();
    // The low byte is the primary code, the rest says more.
    match code & 0xff {
        19 if error.is_unique_violation() => Fault::Duplicate,
        18..=20 => Fault::Row,
        11 | 26 => Fault::Incompatible,
        1 if error.message().starts_with("no such") || error.message().contains("has no column") => {
            Fault::Incompatible
        }
        1 => Fault::Unknown,
        _ => Fault::Unavailable,
    }
}

fn of_mysql(number: u16, state: Option<&str>) -> Fault {
    match number {
        1062 => Fault::Duplicate,
        // Deadlock; in MariaDB also a record that changed since the snapshot.
        1213 | 1020 => Fault::Deadlock,
        // A packet larger than the server takes.
        1153 => Fault::Row,
        // No such database, column, table; a table of another shape.
        1049 | 1054 | 1136 | 1146 => Fault::Incompatible,
        // Too many connections, out of memory, denied, shutting down, disk or table full, storage error, lock wait
        // over time, interrupted, read-only in its kinds, killed, statement over time, binary log of statements.
        1021 | 1028 | 1030 | 1037 | 1038 | 1040 | 1041 | 1044 | 1045 | 1053 | 1114 | 1142 | 1203 | 1205
        | 1226 | 1290 | 1317 | 1665 | 1792 | 1836 | 1927 | 1969 | 3024 => Fault::Unavailable,
        _ => match state.and_then(|state| state.get(..2)) {
            // Data out of range, constraints, and what a trigger signals.
            Some("22" | "23" | "45") => Fault::Row,
            Some("08") => Fault::Unavailable,
            _ => Fault::Unknown,
        },
    }
}
