//! Trees of path components, with the rules that end at each node.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::entry;
use super::image::{Builder, COND_COUNT, COND_OWNER, COND_TREE, COND_WRITE, Decision, Node, Root};
use super::plain::Roots;
use crate::path::{AbsPath, ROTATING};
use crate::ruleset::{Class, Effect, Object, Rule, Ruleset};

/// A node while the tree grows.
#[derive(Debug, Default, Clone)]
struct Branch<'r> {
    edges: BTreeMap<&'r [u8], Branch<'r>>,
    exact: Vec<&'r Rule>,
    directory: Vec<&'r Rule>,              // recursive or not
    below: Option<(Effect, Reverse<u32>)>, // the strongest Block or Audit rule about something below, and its origin
}

impl<'r> Branch<'r> {
    /// The branch at `path`; each one on the way to it learns that `rule` lies below.
    fn at(&mut self, path: &'r AbsPath, rule: &Rule) -> &mut Self {
        let about = (rule.effect > Effect::Allow).then_some((rule.effect, Reverse(rule.origin.0)));
        path.components().fold(self, |branch, name| {
            branch.below = branch.below.max(about);
            branch.edges.entry(name).or_default()
        })
    }

    /// Takes over what another branch says.
    fn merge(&mut self, other: &Self) {
        let mut todo = vec![(self, other)];
        while let Some((into, Self { edges, exact, directory, below })) = todo.pop() {
            into.exact.extend(exact);
            into.directory.extend(directory);
            into.below = into.below.max(*below);
            for name in edges.keys() {
                into.edges.entry(name).or_default();
            }
            let pairs = into.edges.iter_mut().filter_map(|(name, into)| Some((into, edges.get(name)?)));
            todo.extend(pairs);
        }
    }

    /// The programs follow the edge of a component's own name where there is one, so each edge that a rotating one
    /// stands for as well says what both say.
    fn unfold_rotating(&mut self) {
        let mut todo = vec![self];
        while let Some(Self { edges, .. }) = todo.pop() {
            if let Some(rotating) = edges.remove(ROTATING) {
                let stood_for = edges.iter_mut().filter(|(name, _)| name.starts_with(ROTATING));
                stood_for.for_each(|(_, edge)| edge.merge(&rotating));
                edges.insert(ROTATING, rotating);
            }
            todo.extend(edges.values_mut());
        }
    }
}

/// The trees of one class and source.
#[derive(Debug, Default)]
struct Pair<'r> {
    paths: Branch<'r>,
    names: Branch<'r>, // base names, one edge deep
}

/// All trees of a ruleset, before they are numbered.
#[derive(Debug)]
pub(super) struct Forest<'r> {
    pairs: BTreeMap<(Option<&'r AbsPath>, Class), Pair<'r>>,
}

impl<'r> Forest<'r> {
    pub(super) fn grow(ruleset: &'r Ruleset) -> Self {
        let mut pairs: BTreeMap<_, Pair<'r>> = BTreeMap::new();
        for rule in ruleset.rules().iter().filter(|rule| matches!(rule.class, Class::Process | Class::File)) {
            let pair = pairs.entry((rule.source.as_ref(), rule.class)).or_default();
            match &rule.object {
                Object::Path(path) => pair.paths.at(path, rule).exact.push(rule),
                Object::Directory { dir, .. } => pair.paths.at(dir, rule).directory.push(rule),
                Object::BaseName(name) => {
                    pair.names.edges.entry(name.as_bytes()).or_default().exact.push(rule);
                }
                // refused before: see `compile`
                _ => {}
            }
        }
        pairs.values_mut().for_each(|pair| pair.paths.unfold_rotating());
        Self { pairs }
    }
}

/// All trees of a ruleset as nodes with numbers, their decisions and roots written.
#[derive(Debug, Default)]
pub(super) struct Trees {
    nodes: Vec<Node>,
    roots: BTreeMap<Class, u32>, // without a source
    source_node: u32,
    last: u32, // node number; 0 means none
}

impl Trees {
    pub(super) fn number(forest: &Forest<'_>, plain: &Roots<'_>, image: &mut Builder) -> Self {
        let mut trees = Self::default();
        let mut sources: BTreeMap<&AbsPath, Vec<(Class, u32)>> = BTreeMap::new();
        let paths = forest.pairs.iter().map(|(key, pair)| (*key, trees.plant(pair, image)));
        let mut roots: Vec<_> = paths.collect();
        roots.extend(plain.iter().map(|(key, root)| (*key, *root)));
        for ((source, class), root) in roots {
            match source {
                None => drop(trees.roots.insert(class, root)),
                Some(path) => sources.entry(path).or_default().push((class, root)),
            }
        }
        if !sources.is_empty() {
            let mut tree = SourceBranch::default();
            for (path, roots) in &sources {
                let end = path.components().fold(&mut tree, |b, name| b.edges.entry(name).or_default());
                end.cell = image.source(roots);
            }
            trees.source_node = trees.next();
            trees.graft(&tree, trees.source_node);
        }
        trees
    }

    /// The root cell of the rules without a source; 0 = none. Those with one are reached through the source's cell.
    pub(super) fn root(&self, class: Class) -> u32 {
        self.roots.get(&class).copied().unwrap_or(0)
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// 0 where no rule has a source.
    pub(super) fn source_node(&self) -> u32 {
        self.source_node
    }

    fn next(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    fn plant(&mut self, pair: &Pair<'_>, image: &mut Builder) -> u32 {
        let node = self.next();
        let base = if pair.names.edges.is_empty() { 0 } else { self.next() };
        let (exact, children, deep) = decisions(&pair.paths, image);
        self.branch(&pair.paths, node, image);
        self.branch(&pair.names, base, image);
        image.root(&Root { node, base, exact, children, deep })
    }

    fn branch(&mut self, branch: &Branch<'_>, parent: u32, image: &mut Builder) {
        // An explicit stack: a path of 2,047 components must not decide how deep this calls itself.
        let mut todo = vec![(branch, parent)];
        while let Some((branch, parent)) = todo.pop() {
            for (name, child) in &branch.edges {
                let node = self.next();
                let (exact, children, deep) = decisions(child, image);
                self.nodes.push(Node { parent, node, name: name.to_vec(), exact, children, deep });
                todo.push((child, node));
            }
        }
    }

    fn graft(&mut self, tree: &SourceBranch<'_>, root: u32) {
        let mut todo = vec![(tree, root)];
        while let Some((branch, parent)) = todo.pop() {
            for (name, child) in &branch.edges {
                let node = self.next();
                let Node { children, deep, .. } = Node::default();
                self.nodes.push(Node {
                    parent,
                    node,
                    name: name.to_vec(),
                    exact: child.cell,
                    children,
                    deep,
                });
                todo.push((child, node));
            }
        }
    }
}

#[derive(Debug, Default)]
struct SourceBranch<'r> {
    edges: BTreeMap<&'r [u8], SourceBranch<'r>>,
    cell: u32, // 0: no rule has this path as its source
}

/// Decision cells for the path itself, for what is directly in it, and for what lies deeper.
fn decisions(branch: &Branch<'_>, image: &mut Builder) -> (u32, u32, u32) {
    let recursive = |rule: &&&Rule| matches!(rule.object, Object::Directory { recursive: true, .. });
    let mut exact = decide(branch.exact.iter().copied());
    if let Some((effect, Reverse(origin))) = branch.below {
        for (_, slot) in (0u32..).zip(&mut exact).filter(|(condition, _)| condition & COND_TREE != 0) {
            *slot = entry(effect, false, origin);
        }
    }
    let exact = image.decision(exact);
    let children = image.decision(decide(branch.directory.iter().copied()));
    let deep = image.decision(decide(branch.directory.iter().filter(recursive).copied()));
    (exact, children, deep)
}

/// What rules about one object say together, for each combination of conditions: 0 where none of them decides.
fn decide<'r>(rules: impl Iterator<Item = &'r Rule> + Clone) -> Decision {
    let mut decision = [0; COND_COUNT];
    for (condition, slot) in (0u32..).zip(&mut decision).filter(|(condition, _)| condition & COND_TREE == 0) {
        let writes = condition & COND_WRITE != 0;
        let owner = condition & COND_OWNER != 0;
        let strongest = rules.clone().filter_map(|rule| answer(rule, writes, owner)).max();
        *slot = strongest.map_or(0, |(effect, Reverse((origin, exempt)))| entry(effect, exempt, origin));
    }
    decision
}

type Answer = (Effect, Reverse<(u32, bool)>);

/// One rule's answer; `None` where its conditions leave the access to others. Ordered by strength, then origin.
fn answer(rule: &Rule, writes: bool, owner: bool) -> Option<Answer> {
    let conditions = &rule.conditions;
    let origin = rule.origin.0;
    match rule.effect {
        Effect::Allow => ((!conditions.read_only || !writes) && (!conditions.owner_only || owner))
            .then_some((Effect::Allow, Reverse((origin, false)))),
        effect => {
            let exempt = (conditions.read_only && !writes) || (conditions.owner_only && owner);
            Some((if exempt { Effect::Allow } else { effect }, Reverse((origin, exempt))))
        }
    }
}
