//! Trees of path components, with the rules that end at each node.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::args::{Lists, MAX_ALTERNATIVES, MAX_LISTS, When, words};
use super::automaton::{Automata, Rest, split};
use super::image::{
    ArgNodes, Block, Builder, COND_COUNT, COND_OWNER, COND_TREE, COND_TTY, COND_WRITE, Decision, First,
    MAX_BEGUN, Node, Root, Says,
};
use super::near::{Ends, Near};
use super::plain::Roots;
use super::table::first_bit;
use super::{CompileError, conditions_of, entry};
use crate::path::{AbsPath, ROTATING};
use crate::ruleset::{Class, Conditions, Effect, Object, Rule, Ruleset};

/// A node while the tree grows.
#[derive(Debug, Default, Clone)]
struct Branch<'r> {
    edges: BTreeMap<&'r [u8], Box<Branch<'r>>>, // a map's nodes have room for eleven: of pointers
    exact: Vec<&'r Rule>,
    directory: Vec<&'r Rule>,              // recursive or not
    patterns: Vec<Rest<'r>>,               // whose first wildcard comes next
    below: Option<(Effect, Reverse<u32>)>, // the strongest Block or Audit rule about something below, and its origin
}

impl<'r> Branch<'r> {
    /// The branch at these components; each one on the way to it learns that `rule` lies below.
    fn at(&mut self, components: impl Iterator<Item = &'r [u8]>, rule: &Rule) -> &mut Self {
        let about = (rule.effect > Effect::Allow).then_some((rule.effect, Reverse(rule.origin.0)));
        components.fold(self, |branch, name| {
            branch.below = branch.below.max(about);
            branch.edges.entry(name).or_default()
        })
    }

    /// Whether all rules here and below allow, whatever the conditions.
    fn only_allows(&self) -> bool {
        let mut todo = vec![self];
        while let Some(Self { edges, exact, directory, patterns, below: _ }) = todo.pop() {
            let mut rules = exact.iter().chain(directory).copied().chain(patterns.iter().map(Rest::rule));
            if !rules.all(|rule| rule.effect == Effect::Allow && rule.conditions == Conditions::default()) {
                return false;
            }
            todo.extend(edges.values().map(AsRef::as_ref));
        }
        true
    }

    /// Whether everything here and below is allowed, if no pattern from further above says otherwise.
    fn is_open(&self) -> bool {
        self.directory.iter().any(|rule| recursive(&rule)) && self.only_allows()
    }

    /// Takes over what another branch says.
    fn merge(&mut self, other: &Self) {
        let mut todo = vec![(self, other)];
        while let Some((into, Self { edges, exact, directory, patterns, below })) = todo.pop() {
            into.exact.extend(exact);
            into.directory.extend(directory);
            into.patterns.extend(patterns.iter().cloned());
            into.below = into.below.max(*below);
            for name in edges.keys() {
                into.edges.entry(name).or_default();
            }
            let pairs = into
                .edges
                .iter_mut()
                .filter_map(|(name, into)| Some((into.as_mut(), edges.get(name)?.as_ref())));
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
            todo.extend(edges.values_mut().map(AsMut::as_mut));
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
                Object::Path(path) | Object::Applet { program: path, .. } => {
                    pair.paths.at(path.components(), rule).exact.push(rule);
                }
                Object::Directory { dir, .. } => pair.paths.at(dir.components(), rule).directory.push(rule),
                Object::Pattern(pattern) => {
                    let (components, rest) = split(pattern, rule);
                    pair.paths.at(components.into_iter(), rule).patterns.push(rest);
                }
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
    args: ArgNodes,
    last: u32, // node number; 0 means none
    blocks: Vec<Block>,
    ends: BTreeMap<Class, Ends>, // of what patterns match that begin at `/`, without a source
}

impl Trees {
    pub(super) fn number(
        forest: &Forest<'_>,
        plain: &Roots<'_>,
        image: &mut Builder,
    ) -> Result<Self, CompileError> {
        let mut trees = Self::default();
        let mut sources: BTreeMap<&AbsPath, Vec<(Class, u32)>> = BTreeMap::new();
        let mut automata = Automata::default();
        let mut roots = Vec::new();
        for (pair_of, pair) in &forest.pairs {
            let root = trees.plant(pair, &mut automata, image)?;
            if let ((None, class), Some(ends)) = (pair_of, automata.ends(root.says.automata)) {
                trees.ends.insert(*class, ends);
            }
            roots.push((*pair_of, root));
        }
        // Which cells name the automata is known only now: they come after the decisions that their states name.
        let (blocks, cells) = automata.finish(image)?;
        let cell = |says: &mut Says| {
            let number = usize::try_from(says.automata).ok().and_then(|number| number.checked_sub(1));
            says.automata = number.and_then(|number| cells.get(number)).copied().unwrap_or(0);
        };
        trees.nodes.iter_mut().for_each(|node| cell(&mut node.says));
        trees.blocks = blocks;
        let of_paths = roots.into_iter().map(|(key, mut root)| {
            cell(&mut root.says);
            (key, image.root(&root))
        });
        let roots: Vec<_> = of_paths.chain(plain.iter().map(|(key, root)| (*key, *root))).collect();
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
        trees.plant_args(image)?;
        Ok(trees)
    }

    fn plant_args(&mut self, image: &mut Builder) -> Result<(), CompileError> {
        let lists = std::mem::take(&mut image.lists);
        if lists.len() > MAX_LISTS {
            return Err(CompileError::TooManyLists(lists.len()));
        }
        let (begin, nodes) = lists.plant(|| self.next(), image);
        self.nodes.extend(nodes);
        self.args = begin;
        Ok(())
    }

    /// Where the arguments and names stand that rules speak about.
    pub(super) fn args(&self) -> ArgNodes {
        self.args
    }

    /// The automata of patterns.
    pub(super) fn take_blocks(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.blocks)
    }

    /// The root cell of the rules without a source; 0 = none. Those with one are reached through the source's cell.
    pub(super) fn root(&self, class: Class) -> u32 {
        self.roots.get(&class).copied().unwrap_or(0)
    }

    /// What a path's first component and its end tell about the rules of a class.
    pub(super) fn near(&self, forest: &Forest<'_>, class: Class, far_passes: bool) -> Near {
        const ALL: First = [u64::MAX; 4];
        let has_source = forest.pairs.keys().any(|(source, of)| *of == class && source.is_some());
        let Some(pair) = forest.pairs.get(&(None, class)).filter(|_| !has_source) else {
            let first = if far_passes && !has_source { [0; 4] } else { ALL };
            return Near::new(first, std::iter::empty(), None);
        };
        let Branch { edges, directory, .. } = &pair.paths;
        let first = if !far_passes || !pair.names.edges.is_empty() || !directory.is_empty() {
            ALL
        } else {
            edges.keys().filter_map(|name| first_bit(name)).fold([0; 4], |mut first, bit| {
                let word = first.get_mut(usize::from(bit / 64));
                word.into_iter().for_each(|word| *word |= 1 << (bit % 64));
                first
            })
        };
        let open = edges.iter().filter(|(_, branch)| pair.names.only_allows() && branch.is_open());
        Near::new(first, open.map(|(name, _)| *name), self.ends.get(&class).copied())
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

    fn plant(
        &mut self,
        pair: &Pair<'_>,
        automata: &mut Automata,
        image: &mut Builder,
    ) -> Result<Root, CompileError> {
        let node = self.next();
        let base = if pair.names.edges.is_empty() { 0 } else { self.next() };
        let says = decisions(&pair.paths, automata, image)?;
        self.branch(&pair.paths, node, u32::from(says.automata != 0), automata, image)?;
        self.branch(&pair.names, base, 0, automata, image)?;
        Ok(Root { node, base, says })
    }

    fn branch(
        &mut self,
        branch: &Branch<'_>,
        parent: u32,
        begun: u32,
        automata: &mut Automata,
        image: &mut Builder,
    ) -> Result<(), CompileError> {
        // An explicit stack: a path of 2,047 components must not decide how deep this calls itself.
        let mut todo = vec![(branch, parent, begun)];
        while let Some((branch, parent, begun)) = todo.pop() {
            for (name, child) in &branch.edges {
                let node = self.next();
                let says = decisions(child, automata, image)?;
                let begun = begun + u32::from(says.automata != 0);
                if begun > MAX_BEGUN {
                    let rule = child.patterns.first().map(|rest| rest.rule().to_string()).unwrap_or_default();
                    return Err(CompileError::TooManyPatterns { rule });
                }
                self.nodes.push(Node { parent, node, name: name.to_vec(), says });
                todo.push((child, node, begun));
            }
        }
        Ok(())
    }

    fn graft(&mut self, tree: &SourceBranch<'_>, root: u32) {
        let mut todo = vec![(tree, root)];
        while let Some((branch, parent)) = todo.pop() {
            for (name, child) in &branch.edges {
                let node = self.next();
                let says = Says { exact: child.cell, ..Says::default() };
                self.nodes.push(Node { parent, node, name: name.to_vec(), says });
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

/// The cells of one branch; in place of the automata's cell their number in [`Automata`], from 1.
fn decisions(
    branch: &Branch<'_>,
    automata: &mut Automata,
    image: &mut Builder,
) -> Result<Says, CompileError> {
    let mut exact = decide(branch.exact.iter().copied(), image)?;
    strongest_below(&mut exact, branch.below);
    let children = decide(branch.directory.iter().copied(), image)?;
    let deep = match branch.directory.iter().all(|rule| recursive(&rule)) {
        true => children,
        false => decide(branch.directory.iter().filter(recursive).copied(), image)?,
    };
    Ok(Says {
        exact: image.decision(exact),
        children: image.decision(children),
        deep: image.decision(deep),
        automata: if branch.patterns.is_empty() {
            0
        } else {
            u32::try_from(automata.add(&branch.patterns, image)? + 1).unwrap_or(u32::MAX)
        },
    })
}

fn recursive(rule: &&&Rule) -> bool {
    matches!(rule.object, Object::Directory { recursive: true, .. })
}

fn strongest_below(decision: &mut Decision, below: Option<(Effect, Reverse<u32>)>) {
    let Some((effect, Reverse(origin))) = below else { return };
    for (_, slot) in (0u32..).zip(decision).filter(|(condition, _)| condition & COND_TREE != 0) {
        *slot = entry(effect, false, origin);
    }
}

/// Sets what a decision says about a directory that moves with all below it, which these rules speak about.
pub(super) fn below<'r>(decision: &mut Decision, rules: impl Iterator<Item = &'r Rule>) {
    let strong = rules.filter(|rule| rule.effect > Effect::Allow);
    strongest_below(decision, strong.map(|rule| (rule.effect, Reverse(rule.origin.0))).max());
}

/// What rules about one object say together, for each combination of conditions: 0 where none of them decides.
pub(super) fn decide<'r>(
    rules: impl Iterator<Item = &'r Rule> + Clone,
    image: &mut Builder,
) -> Result<Decision, CompileError> {
    let mut decision: Decision = [0; COND_COUNT];
    if rules.clone().next().is_none() {
        return Ok(decision);
    }
    let asked = rules.clone().map(conditions_of).fold(0, |all, one| all | one);
    let mut answers: Vec<(Answer, When)> = Vec::new();
    for condition in CONDITIONS {
        // what no rule asks about makes no difference
        if condition & !asked != 0 {
            continue;
        }
        answers.clear();
        rules.clone().for_each(|rule| answers.extend(answers_of(rule, condition, &mut image.lists)));
        answers.sort_unstable_by_key(|answer| Reverse(*answer));
        answers.dedup();
        // what comes after an answer that is always given is never asked for
        let always = answers.iter().position(|(_, when)| when.always());
        answers.truncate(always.map_or(answers.len(), |always| always + 1));
        let plain = |(effect, Reverse((origin, exempt))): Answer| entry(effect, exempt, origin);
        let word = match answers.as_slice() {
            [] => continue,
            [(answer, when)] if when.always() => plain(*answer),
            several if several.len() > MAX_ALTERNATIVES => {
                let rule = rules.clone().next().map(Rule::to_string).unwrap_or_default();
                return Err(CompileError::TooManyAlternatives { rule });
            }
            several => {
                let strongest = several.iter().map(|((effect, _), _)| *effect).max().unwrap_or(Effect::Block);
                let pairs: Vec<_> = several.iter().map(|(answer, when)| (*when, plain(*answer))).collect();
                image.alternatives(words(&pairs), strongest)
            }
        };
        let same = (0u32..).zip(&mut decision);
        let same = same.filter(|(other, _)| other & (asked | COND_TREE) == condition);
        same.for_each(|(_, slot)| *slot = word);
    }
    Ok(decision)
}

/// Every combination of the conditions of an access: not [`COND_TREE`].
const CONDITIONS: [u32; COND_COUNT / 2] = {
    let (w, o, t) = (COND_WRITE, COND_OWNER, COND_TTY);
    [0, w, o, w | o, t, w | t, o | t, w | o | t]
};

type Answer = (Effect, Reverse<(u32, bool)>);

/// One rule's answers, and when they are given; none where its conditions leave the access to others. Ordered by
/// strength, then origin.
fn answers_of(
    rule: &Rule,
    condition: u32,
    lists: &mut Lists,
) -> impl Iterator<Item = (Answer, When)> + use<> {
    let Conditions { read_only, owner_only, no_terminal, args } = &rule.conditions;
    let asked =
        [(*read_only, COND_WRITE, false), (*owner_only, COND_OWNER, true), (*no_terminal, COND_TTY, false)];
    let mut asked = asked.into_iter().filter(|(asked, ..)| *asked);
    let holds = |(_, bit, wanted): (bool, u32, bool)| (condition & bit != 0) == wanted;
    let applet = match &rule.object {
        Object::Applet { name, .. } => Some(lists.applet(name, rule.effect != Effect::Allow)),
        _ => None,
    };
    let list = args.as_ref().map(|args| lists.number(args));
    let when = |held| When { list: list.map(|list| (list, held)), applet };
    let always = When { list: None, applet };
    let origin = rule.origin.0;
    let allowed = |exempt| (Effect::Allow, Reverse((origin, exempt)));
    let answers = match rule.effect {
        Effect::Allow if !asked.all(holds) => [None, None],
        Effect::Allow => [Some((allowed(false), when(true))), None],
        _ if asked.any(holds) => [Some((allowed(true), always)), None],
        effect => {
            let plain = (effect, Reverse((origin, false)));
            match list {
                None => [Some((plain, always)), None],
                Some(_) => [Some((allowed(true), when(true))), Some((plain, when(false)))],
            }
        }
    };
    answers.into_iter().flatten()
}
