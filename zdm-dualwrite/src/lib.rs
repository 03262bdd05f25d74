//! zdm-dualwrite
