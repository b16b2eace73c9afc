//! Who acts: roles, and what a device may see and write.

use serde::{Deserialize, Serialize};

use super::ids::{DeviceId, StoreId, UserId};
use super::rules::{Scope, TableRules};

/// What a user is in the office. The order is the order of `read` and `write` in the rules: least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// An employee's or a till's app: its own stores' records.
    Store,
    /// A program: it alone writes tables with `write = "service"`.
    Service,
    /// Edits everything, resolves conflicts, sees all stores.
    Manager,
    /// Users, devices, backups, cleanup.
    Admin,
}

impl Role {
    /// The word used in the protocol, the database and the command line.
    pub fn word(self) -> &'static str {
        match self {
            Role::Store => "store",
            Role::Service => "service",
            Role::Manager => "manager",
            Role::Admin => "admin",
        }
    }

    /// The role that a word names.
    pub fn parse(word: &str) -> Option<Role> {
        [Role::Store, Role::Service, Role::Manager, Role::Admin].into_iter().find(|r| r.word() == word)
    }

    /// Rank in `manager_wins`: an admin counts as a manager.
    pub fn rank(self) -> u8 {
        match self {
            Role::Store | Role::Service => 0,
            Role::Manager | Role::Admin => 1,
        }
    }

    /// Sees the records of every store and user.
    pub fn sees_all(self) -> bool {
        self != Role::Store
    }

    /// Manages other people's things: a manager or an admin.
    pub fn manages(self) -> bool {
        self >= Role::Manager
    }
}

/// A device's user as rules see them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// The device that acts; `None` for a person in a browser.
    pub device: Option<DeviceId>,
    /// Whose device it is.
    pub user: UserId,
    /// What the user may do.
    pub role: Role,
    /// The user's stores (empty for managers, who see all).
    pub stores: Vec<StoreId>,
}

impl Actor {
    /// May this actor read records of the table at all?
    pub fn may_read(&self, rules: &TableRules) -> bool {
        self.role >= rules.read
    }

    /// May this actor write records of the table at all?
    pub fn may_write(&self, rules: &TableRules) -> bool {
        match (rules.write, self.role) {
            (Role::Service, role) => role == Role::Service,
            (_, Role::Service) => false,
            (least, role) => role >= least,
        }
    }

    /// Is the feed (table scope, value) in this actor's view, the table's `read` aside?
    pub fn in_scope(&self, scope: Scope, value: &str) -> bool {
        match scope {
            Scope::Office => true,
            _ if self.role.sees_all() => true,
            Scope::Store => self.stores.iter().any(|s| s.as_str() == value),
            Scope::User => self.user.as_str() == value,
        }
    }

    /// The scope value that the server fills in for a new record without one.
    /// `None`: the device has several stores, or none, and must name it.
    pub fn own_scope(&self, scope: Scope) -> Option<&str> {
        match scope {
            Scope::Office => Some(""),
            Scope::User => Some(self.user.as_str()),
            Scope::Store => match self.stores.as_slice() {
                [one] => Some(one.as_str()),
                _ => None,
            },
        }
    }
}
