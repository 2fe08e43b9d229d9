//! Reads containerlab topology files (`*.clab.yml`) as far as the lab uses them.
//!
//! The files stay valid for containerlab itself. What the lab does not understand it refuses by name instead of
//! ignoring it: a lab that quietly leaves out half of its description proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The reasons for which a topology file is invalid.
#[derive(Debug)]
pub enum TopologyError {
    /// The file could not be read.
    Read(PathBuf, std::io::Error),
    /// It is no YAML, or has a field or type the lab does not know. The message names path and line.
    Syntax(PathBuf, String),
    /// It is well formed, but does not describe a lab: every fault found, each with the path of its field.
    Invalid(PathBuf, Vec<String>),
}

impl std::fmt::Display for TopologyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(file, error) => {
                write!(f, "cannot read the topology {}: {error}", file.display())
            }
            Self::Syntax(file, error) => write!(f, "{}: {error}", file.display()),
            Self::Invalid(file, faults) => {
                write!(f, "{} does not describe a lab:", file.display())?;
                faults.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
            }
        }
    }
}

impl std::error::Error for TopologyError {}

/// A topology, checked, with defaults, kinds and groups already merged into each node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The lab's name.
    pub name: String,
    /// The folder of the file: relative bind sources start here.
    pub folder: PathBuf,
    /// The nodes by name.
    pub nodes: BTreeMap<String, Node>,
    /// The links between them, in the order of the file.
    pub links: Vec<Link>,
}

/// One node, merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The daemon, split into words.
    pub cmd: Vec<String>,
    /// Commands run in order once the links are there, each split into words.
    pub exec: Vec<Vec<String>>,
    /// The host's files that appear in the node.
    pub binds: Vec<Bind>,
    /// Environment of every command in the node.
    pub env: BTreeMap<String, String>,
    /// Free labels; the lab itself looks at `role`.
    pub labels: BTreeMap<String, String>,
}

/// A folder or file of the host seen in a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bind {
    /// As written in the file: relative to it, or absolute.
    pub source: PathBuf,
    /// The path in the node.
    pub target: PathBuf,
    /// Not to be written from the node.
    pub read_only: bool,
}

/// A cable between two interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Both ends.
    pub ends: [Endpoint; 2],
    /// The MTU of both ends in bytes; the kernel's own default if absent.
    pub mtu: Option<u32>,
}

/// One end of a cable.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The node's name.
    pub node: String,
    /// The interface's name in it.
    pub interface: String,
}

// The file as containerlab documents it. `deny_unknown_fields` makes serde name the field, its path and line.

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    // Container names and the management network: accepted, for containerlab's sake; the lab has neither.
    #[serde(rename = "prefix")]
    _prefix: Option<String>,
    #[serde(rename = "mgmt")]
    _mgmt: Option<serde_yaml::Mapping>,
    topology: Sections,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sections {
    #[serde(default)]
    defaults: RawNode,
    #[serde(default)]
    kinds: BTreeMap<String, RawNode>,
    #[serde(default)]
    groups: BTreeMap<String, RawNode>,
    nodes: BTreeMap<String, RawNode>,
    #[serde(default)]
    links: Vec<RawLink>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(deny_unknown_fields)]
struct RawNode {
    kind: Option<String>,
    group: Option<String>,
    // Which image a container would start from; the lab's nodes see the machine's own files.
    #[serde(rename = "image")]
    _image: Option<String>,
    cmd: Option<String>,
    #[serde(default)]
    exec: Vec<String>,
    #[serde(default)]
    binds: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLink {
    endpoints: Vec<String>,
    mtu: Option<u32>,
}

/// Node kinds the lab can build: plain Linux network stacks.
const KINDS: [&str; 1] = ["linux"];

impl Topology {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`TopologyError`], naming the field and what is wrong with it.
    pub fn read(file: &Path) -> Result<Self, TopologyError> {
        let text = std::fs::read_to_string(file).map_err(|e| TopologyError::Read(file.to_owned(), e))?;
        Self::parse(file, &text)
    }

    /// Checks the text of a file; `file` is for messages and for its folder.
    ///
    /// # Errors
    /// [`TopologyError`], naming the field and what is wrong with it.
    pub fn parse(file: &Path, text: &str) -> Result<Self, TopologyError> {
        let raw: File =
            serde_yaml::from_str(text).map_err(|e| TopologyError::Syntax(file.to_owned(), e.to_string()))?;
        let mut faults = Vec::new();
        if !is_name(&raw.name) {
            faults.push(format!("name: `{}`: use letters, digits, `-` and `_`", raw.name));
        }
        let sections = &raw.topology;
        let nodes: BTreeMap<String, Node> = (sections.nodes.iter())
            .map(|(name, node)| (name.clone(), merge(sections, name, node, &mut faults)))
            .collect();
        let links = read_links(&sections.links, &nodes, &mut faults);
        if nodes.is_empty() {
            faults.push("topology.nodes: empty, a lab needs at least one node".into());
        }
        if !faults.is_empty() {
            return Err(TopologyError::Invalid(file.to_owned(), faults));
        }
        let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Ok(Self { name: raw.name, folder: folder.to_owned(), nodes, links })
    }

    /// The nodes whose label `role` has this value, in order of name.
    pub fn with_role<'a>(&'a self, role: &'a str) -> impl Iterator<Item = &'a str> {
        self.nodes
            .iter()
            .filter(move |(_, n)| n.labels.get("role").is_some_and(|r| r == role))
            .map(|(n, _)| &**n)
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// Merges as containerlab does: the closer section wins a scalar and a key, `exec` and `binds` add up.
fn merge(sections: &Sections, name: &str, node: &RawNode, faults: &mut Vec<String>) -> Node {
    let at = format!("topology.nodes.{name}");
    if !is_name(name) {
        faults.push(format!("{at}: use letters, digits, `-` and `_` in a node's name"));
    }
    let group = node.group.as_ref().or(sections.defaults.group.as_ref());
    let group_section = group.and_then(|g| sections.groups.get(g));
    if let (Some(group), None) = (group, group_section) {
        faults.push(format!("{at}.group: there is no topology.groups.{group}"));
    }
    let kind = node
        .kind
        .as_ref()
        .or(group_section.and_then(|g| g.kind.as_ref()))
        .or(sections.defaults.kind.as_ref());
    match kind {
        None => faults.push(format!("{at}.kind: missing, use `linux`")),
        Some(kind) if !KINDS.contains(&kind.as_str()) => {
            faults.push(format!("{at}.kind: the lab cannot build `{kind}`, only `linux`"));
        }
        Some(_) => {}
    }
    let kind_section = kind.and_then(|k| sections.kinds.get(k));

    let mut merged = Node::default();
    let named = |section: &str| format!("topology.{section}");
    let layers = [
        (named("defaults"), Some(&sections.defaults)),
        (named("kinds"), kind_section),
        (named("groups"), group_section),
        (at, Some(node)),
    ];
    for (at, layer) in layers.iter().filter_map(|(at, layer)| Some((at, (*layer)?))) {
        if let Some(cmd) = &layer.cmd {
            merged.cmd = words(cmd, || format!("{at}.cmd"), faults);
        }
        for (i, line) in layer.exec.iter().enumerate() {
            merged.exec.push(words(line, || format!("{at}.exec[{i}]"), faults));
        }
        for (i, bind) in layer.binds.iter().enumerate() {
            match read_bind(bind) {
                Ok(bind) => {
                    merged.binds.retain(|b| b.target != bind.target);
                    merged.binds.push(bind);
                }
                Err(fault) => faults.push(format!("{at}.binds[{i}]: {fault}")),
            }
        }
        merged.env.extend(layer.env.clone());
        merged.labels.extend(layer.labels.clone());
    }
    merged
}

fn words(line: &str, at: impl Fn() -> String, faults: &mut Vec<String>) -> Vec<String> {
    split_words(line).unwrap_or_else(|fault| {
        faults.push(format!("{}: {fault}", at()));
        Vec::new()
    })
}

/// Splits a command line into words: blanks separate, quotes and backslashes protect. Nothing is expanded: as in
/// containerlab, whoever wants a shell writes `sh -c "…"`.
fn split_words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None | Some('"'), '\\') => {
                let next = chars.next().ok_or_else(|| format!("`{line}` ends in a backslash"))?;
                word.get_or_insert_default().push(next);
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    if let Some(q) = quote {
        return Err(format!("`{line}`: the quote {q} is not closed"));
    }
    words.extend(word);
    if words.is_empty() { Err("an empty command".into()) } else { Ok(words) }
}

fn read_bind(bind: &str) -> Result<Bind, String> {
    let parts: Vec<&str> = bind.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        _ => {
            return Err(format!("`{bind}`: write SOURCE:TARGET, SOURCE:TARGET:ro or SOURCE:TARGET:rw"));
        }
    };
    if source.is_empty() || !target.starts_with('/') {
        return Err(format!("`{bind}`: a source, and a target that starts with `/`"));
    }
    Ok(Bind { source: source.into(), target: target.into(), read_only })
}

fn read_links(raw: &[RawLink], nodes: &BTreeMap<String, Node>, faults: &mut Vec<String>) -> Vec<Link> {
    let mut used = BTreeSet::new();
    let mut links = Vec::new();
    for (i, link) in raw.iter().enumerate() {
        let at = format!("topology.links[{i}].endpoints");
        let mut ends = Vec::new();
        for (j, end) in link.endpoints.iter().enumerate() {
            match read_endpoint(end, nodes) {
                Ok(end) if used.insert(end.clone()) => ends.push(end),
                Ok(_) => faults.push(format!("{at}[{j}]: `{end}` is used twice")),
                Err(fault) => faults.push(format!("{at}[{j}]: {fault}")),
            }
        }
        if link.endpoints.len() != 2 {
            faults.push(format!("{at}: a link has two ends, not {}", link.endpoints.len()));
        } else if let Ok(ends) = ends.try_into() {
            links.push(Link { ends, mtu: link.mtu });
        }
        if link.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            faults.push(format!("topology.links[{i}].mtu: from 68 to 65535 bytes"));
        }
    }
    links
}

fn read_endpoint(end: &str, nodes: &BTreeMap<String, Node>) -> Result<Endpoint, String> {
    let (node, interface) = end.split_once(':').ok_or_else(|| format!("`{end}`: write NODE:INTERFACE"))?;
    if !nodes.contains_key(node) {
        return Err(format!("`{end}`: there is no node `{node}`"));
    }
    // The kernel's limit for interface names, IFNAMSIZ less the closing zero.
    if interface.is_empty() || interface.len() > 15 || interface.contains(['/', ' ', ':']) {
        return Err(format!("`{end}`: `{interface}` is no interface name"));
    }
    Ok(Endpoint { node: node.into(), interface: interface.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Topology, TopologyError> {
        Topology::parse(Path::new("/labs/x.clab.yml"), text)
    }

    fn fault(text: &str) -> String {
        parse(text).expect_err("refused").to_string()
    }

    const PAIR: &str = "
name: pair
topology:
  defaults: {kind: linux, env: {A: default, B: default}, exec: [one]}
  kinds: {linux: {image: x, labels: {kind: yes-linux}, exec: [two]}}
  groups: {g: {cmd: sleep infinity, binds: ['a:/etc/x:ro', 'b:/y'], env: {B: group}, labels: {role: node}}}
  nodes:
    n1: {group: g, exec: ['sh -c \"echo 1 > /x y\"'], binds: ['c:/y'], env: {A: node}}
    n2: {}
  links:
    - endpoints: ['n1:eth1', 'n2:eth1']
      mtu: 9000
";

    #[test]
    fn closer_sections_win_and_lists_add_up() {
        let topology = parse(PAIR).expect("valid");
        let n1 = &topology.nodes["n1"];
        assert_eq!(topology.folder, Path::new("/labs"));
        assert_eq!(n1.cmd, ["sleep", "infinity"]);
        assert_eq!(n1.exec, [vec!["one"], vec!["two"], vec!["sh", "-c", "echo 1 > /x y"]]);
        assert_eq!(n1.env["A"], "node");
        assert_eq!(n1.env["B"], "group");
        let binds: Vec<_> = n1.binds.iter().map(|b| (b.source.to_str().unwrap(), b.read_only)).collect();
        assert_eq!(binds, [("a", true), ("c", false)]);
        assert_eq!(topology.links[0].mtu, Some(9000));
        assert_eq!(topology.with_role("node").collect::<Vec<_>>(), ["n1"]);
    }

    #[test]
    fn unknown_fields_are_named_with_path_and_line() {
        let text = "name: x\ntopology:\n  nodes:\n    n1:\n      kind: linux\n      imagee: y\n";
        let fault = fault(text);
        for part in ["topology.nodes.n1", "unknown field `imagee`", "line 6"] {
            assert!(fault.contains(part), "{part} in: {fault}");
        }
    }

    #[test]
    fn every_fault_is_reported_at_once() {
        let fault = fault(
            "name: x\ntopology:\n  nodes: {a: {kind: linux, cmd: \"sh -c 'x\"}, b: {kind: srl}, c: {group: no}}\n  \
             links:\n  - endpoints: ['a:eth1', 'z:eth1']\n  - endpoints: ['a:eth1', 'b:eth1']\n  \
             - endpoints: ['b:eth1']\n    mtu: 1\n",
        );
        for part in [
            "topology.nodes.a.cmd: `sh -c 'x`: the quote ' is not closed",
            "topology.nodes.b.kind: the lab cannot build `srl`",
            "topology.nodes.c.group: there is no topology.groups.no",
            "topology.nodes.c.kind: missing",
            "topology.links[0].endpoints[1]: `z:eth1`: there is no node `z`",
            "topology.links[1].endpoints[0]: `a:eth1` is used twice",
            "topology.links[2].endpoints: a link has two ends, not 1",
            "topology.links[2].endpoints[0]: `b:eth1` is used twice",
            "topology.links[2].mtu",
        ] {
            assert!(fault.contains(part), "{part} in: {fault}");
        }
    }

    #[test]
    fn binds_are_checked() {
        let fault =
            fault("name: x\ntopology:\n  nodes: {a: {kind: linux, binds: ['a', 'a:b', 'a:/b:rx']}}\n");
        for i in 0..3 {
            assert!(fault.contains(&format!("topology.nodes.a.binds[{i}]")), "{fault}");
        }
    }

    #[test]
    fn our_own_topologies_are_valid() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("topologies");
        for name in ["two-racks", "reflectors", "interop"] {
            let topology = Topology::read(&folder.join(name).join(format!("{name}.clab.yml"))).expect(name);
            assert_eq!(topology.name, name);
        }
    }
}
