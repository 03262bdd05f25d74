//! zdm-core
