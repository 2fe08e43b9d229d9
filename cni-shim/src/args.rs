//! The environment variables in which a runtime passes a verb's parameters (CNI 1.1, section 2, "Parameters").

use std::path::PathBuf;

use crate::attachment::Attachment;
use crate::error::{CniError, code};

/// The kernel's IFNAMSIZ without the terminating zero.
const IFNAME_MAX: usize = 15;

/// A verb with the parameters it needs.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Add(Attachment, PathBuf),
    /// DEL needs no namespace: the kernel deletes the pod's end together with the host's end.
    Del(Attachment),
    Check(Attachment, PathBuf),
    Gc,
    Status,
    Version,
}

impl Command {
    /// Reads the command from `env`, a function that looks up an environment variable.
    pub fn from_env(env: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let set = |name: &str| env(name).filter(|value| !value.is_empty());
        let command = set("CNI_COMMAND").unwrap_or_default();
        match command.as_str() {
            "ADD" => Ok(Self::Add(attachment(&set)?, netns(&set)?)),
            "DEL" => Ok(Self::Del(attachment(&set)?)),
            "CHECK" => Ok(Self::Check(attachment(&set)?, netns(&set)?)),
            "GC" => Ok(Self::Gc),
            "STATUS" => Ok(Self::Status),
            "VERSION" => Ok(Self::Version),
            "" => Err(invalid(
                "CNI_COMMAND",
                "it is not set; this program is a CNI plugin, started by a container runtime with ADD, DEL, CHECK, \
                 GC, STATUS or VERSION in it",
            )),
            other => Err(invalid(
                "CNI_COMMAND",
                &format!("{other:?} is not one of ADD, DEL, CHECK, GC, STATUS and VERSION"),
            )),
        }
    }
}

fn attachment(set: &impl Fn(&str) -> Option<String>) -> Result<Attachment, CniError> {
    let container_id = set("CNI_CONTAINERID").ok_or_else(|| invalid("CNI_CONTAINERID", "it is not set"))?;
    check_container_id(&container_id).map_err(|problem| invalid("CNI_CONTAINERID", &problem))?;
    let ifname = set("CNI_IFNAME").ok_or_else(|| invalid("CNI_IFNAME", "it is not set"))?;
    check_ifname(&ifname).map_err(|problem| invalid("CNI_IFNAME", &problem))?;
    Ok(Attachment { container_id, ifname })
}

fn netns(set: &impl Fn(&str) -> Option<String>) -> Result<PathBuf, CniError> {
    set("CNI_NETNS").map(PathBuf::from).ok_or_else(|| {
        invalid("CNI_NETNS", "it is not set; it must be the path of the container's network namespace")
    })
}

/// Returns the error for an invalid variable. The specification requires the variable's name in the message.
pub(crate) fn invalid(variable: &str, problem: &str) -> CniError {
    CniError::new(
        code::INVALID_ENVIRONMENT,
        format!("invalid environment variable {variable}"),
        format!("{variable}: {problem}"),
    )
}

fn check_container_id(id: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.chars().all(allowed) {
        return Err(format!(
            "{id:?} must begin with a letter or digit and continue with letters, digits, '_', '.' and '-'"
        ));
    }
    Ok(())
}

fn check_ifname(name: &str) -> Result<(), String> {
    let problem = if name.len() > IFNAME_MAX {
        format!("is longer than {IFNAME_MAX} bytes")
    } else if name == "." || name == ".." {
        "is the name of a directory".into()
    } else if let Some(bad) =
        name.chars().find(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
    {
        format!("contains {bad:?}")
    } else {
        return Ok(());
    };
    Err(format!("{name:?} can't be an interface's name: it {problem}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(vars: &[(&str, &str)]) -> Result<Command, CniError> {
        Command::from_env(|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| v.to_string()))
    }

    #[test]
    fn each_verb_gets_its_parameters() {
        let attachment = Attachment { container_id: "c1".into(), ifname: "eth0".into() };
        let key = [("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        let with = |more: &[(&'static str, &'static str)]| parse(&[&key, more].concat());

        assert_eq!(
            with(&[("CNI_COMMAND", "ADD"), ("CNI_NETNS", "/run/netns/x")]),
            Ok(Command::Add(attachment.clone(), "/run/netns/x".into()))
        );
        assert_eq!(with(&[("CNI_COMMAND", "DEL")]), Ok(Command::Del(attachment.clone())));
        assert_eq!(with(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", "")]), Ok(Command::Del(attachment)));
        assert_eq!(parse(&[("CNI_COMMAND", "GC")]), Ok(Command::Gc));
        assert_eq!(parse(&[("CNI_COMMAND", "STATUS")]), Ok(Command::Status));
        assert_eq!(parse(&[("CNI_COMMAND", "VERSION")]), Ok(Command::Version));
        for verb in ["ADD", "CHECK"] {
            let error = with(&[("CNI_COMMAND", verb)]).unwrap_err();
            assert!(error.code == 4 && error.msg.contains("CNI_NETNS"), "{error:?}");
        }
    }

    #[test]
    fn bad_variables_are_named() {
        let good = [("CNI_COMMAND", "DEL"), ("CNI_CONTAINERID", "c1"), ("CNI_IFNAME", "eth0")];
        assert!(parse(&good).is_ok());
        let bad = [
            ("CNI_COMMAND", ""),
            ("CNI_COMMAND", "add"),
            ("CNI_CONTAINERID", ""),
            ("CNI_CONTAINERID", "-c1"),
            ("CNI_CONTAINERID", "c/../1"),
            ("CNI_CONTAINERID", "ü"),
            ("CNI_IFNAME", ""),
            ("CNI_IFNAME", "."),
            ("CNI_IFNAME", ".."),
            ("CNI_IFNAME", "eth/0"),
            ("CNI_IFNAME", "eth:0"),
            ("CNI_IFNAME", "eth 0"),
            ("CNI_IFNAME", "sixteen-bytes-xx"),
        ];
        for (variable, value) in bad {
            let vars = good.map(|(k, v)| if k == variable { (k, value) } else { (k, v) });
            let error = parse(&vars).unwrap_err();
            assert_eq!(error.code, 4, "{variable}={value}");
            assert!(error.msg.contains(variable), "{error:?}");
        }
    }
}
