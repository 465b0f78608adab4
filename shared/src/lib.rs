//! Types, defaults and helpers that the controller and the admission service share.
