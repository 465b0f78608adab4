//! Paths of fields, put together only when somebody wants to read them: most fields are right, and nobody asks where those are.

use std::fmt;

/// Where a field is, such as `cells[zone-a].multigateway.replicas`: a chain from the field up to the root, each link on its owner's stack.
#[derive(Debug, Clone, Copy)]
pub enum At<'a> {
    /// A path that is text already; an empty one is the whole.
    Root(&'a str),
    /// A field of what is above.
    Field(&'a At<'a>, &'a str),
    /// An entry of the list or map above.
    Key(&'a At<'a>, &'a str),
}

impl<'a> At<'a> {
    /// A field of this.
    #[must_use]
    pub fn field(&'a self, name: &'a str) -> At<'a> {
        At::Field(self, name)
    }

    /// An entry of this list or map.
    #[must_use]
    pub fn key(&'a self, key: &'a str) -> At<'a> {
        At::Key(self, key)
    }
}

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Root(text) => f.write_str(text),
            At::Field(At::Root(""), name) => f.write_str(name),
            At::Field(above, name) => write!(f, "{above}.{name}"),
            At::Key(above, key) => write!(f, "{above}[{key}]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_from_the_root_to_the_field() {
        let root = At::Root("");
        let cells = root.field("cells");
        let cell = cells.key("a.b");
        assert_eq!(cell.field("name").to_string(), "cells[a.b].name");
        assert_eq!(At::Root("x[y]").field("z").to_string(), "x[y].z");
        assert_eq!(root.to_string(), "");
    }
}
