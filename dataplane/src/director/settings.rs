//! IPVS's sysctls by name, and the three time-outs of `ipvsadm --set`.

use super::{
    Director,
    spec::{DirectorError, TimeoutSpec},
};
use crate::service::Settings;

/// One setting: its sysctl name, its greatest value, how to read and write it.
struct Setting {
    /// Name under `net.ipv4.vs.`.
    name: &'static str,
    /// Greatest value taken; the least is 0.
    max: u32,
    /// Reads it.
    get: fn(&Settings) -> u32,
    /// Writes it.
    set: fn(&mut Settings, u32),
}

macro_rules! switch {
    ($name:ident) => {
        Setting {
            name: stringify!($name),
            max: 1,
            get: |settings| u32::from(settings.$name),
            set: |settings, value| settings.$name = value != 0,
        }
    };
}

/// All settings, by name.
const TABLE: &[Setting] = &[
    Setting {
        name: "conn_reuse_mode",
        max: 3,
        get: |settings| u32::from(settings.conn_reuse_mode),
        set: |settings, value| settings.conn_reuse_mode = u8::try_from(value).unwrap_or(0),
    },
    switch!(expire_nodest_conn),
    switch!(expire_quiescent_template),
    switch!(nat_icmp_send),
    switch!(pmtu_disc),
    Setting {
        name: "secure_tcp",
        max: 3,
        get: |settings| if settings.secure_tcp { 3 } else { 0 },
        set: |settings, value| settings.secure_tcp = value == 3,
    },
    switch!(sloppy_sctp),
    switch!(sloppy_tcp),
];

/// The names of all settings.
pub const SETTINGS: [&str; TABLE.len()] = {
    let mut names = [""; TABLE.len()];
    let mut at = 0;
    while at < TABLE.len() {
        names[at] = TABLE[at].name;
        at += 1;
    }
    names
};

impl Director {
    /// All settings with their values.
    pub fn settings(&self) -> Vec<(&'static str, u32)> {
        TABLE.iter().map(|setting| (setting.name, (setting.get)(&self.settings))).collect()
    }

    /// Says why [`Director::set_setting`] would refuse; changes nothing.
    ///
    /// # Errors
    ///
    /// There is no such setting, or the value is out of its range.
    pub fn check_setting(&self, name: &str, value: u32) -> Result<(), DirectorError> {
        checked(name, value).map(|_| ())
    }

    /// Changes a setting.
    ///
    /// # Errors
    ///
    /// There is no such setting, or the value is out of its range.
    pub fn set_setting(&mut self, name: &str, value: u32) -> Result<(), DirectorError> {
        (checked(name, value)?.set)(&mut self.settings, value);
        self.generation += 1;
        Ok(())
    }

    /// The three time-outs that `ipvsadm --set` changes.
    pub const fn timeouts(&self) -> TimeoutSpec {
        let (tcp_s, tcp_fin_s, udp_s) = self.timeouts.changeable();
        TimeoutSpec { tcp_s, tcp_fin_s, udp_s }
    }

    /// Changes them; 0 keeps a value. Flows take a new time-out with their next packet.
    pub fn set_timeouts(&mut self, spec: TimeoutSpec) {
        self.timeouts.set(spec.tcp_s, spec.tcp_fin_s, spec.udp_s);
        self.generation += 1;
    }
}

/// The setting with this name, if it takes the value.
fn checked(name: &str, value: u32) -> Result<&'static Setting, DirectorError> {
    let Some(setting) = TABLE.iter().find(|setting| setting.name == name) else {
        let known = SETTINGS.join(", ");
        return Err(DirectorError::Invalid {
            field: "setting",
            reason: format!("`{name}` is not one of {known}"),
        });
    };
    let in_between = setting.name == "secure_tcp" && !matches!(value, 0 | 3);
    if value > setting.max || in_between {
        let range = if setting.name == "secure_tcp" {
            "0 or 3 (the automatic modes are not available)".to_owned()
        } else {
            format!("0 to {}", setting.max)
        };
        return Err(DirectorError::Invalid {
            field: setting.name,
            reason: format!("{value}; {range}"),
        });
    }
    Ok(setting)
}
