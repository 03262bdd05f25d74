//! zdm-sql-adapters
