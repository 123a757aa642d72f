//! Compiles templates to instructions, and routes operations of unbounded time or memory through our own functions.
//!
//! The engine has no hooks for its operators. The compiler therefore rebuilds the syntax tree with filters in their
//! place: `a ~ b` becomes `a|__concat(b)`, a list is passed to `__own`, and plain text is emitted like a value. The
//! filters are in [`super::operators`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::thread;

use minijinja::machinery::{
    CodeGenerator, Instructions, Span, Token, WhitespaceConfig, ast, parse, tokenize,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};

use super::operators as op;
use crate::limits;

type Expr = ast::Expr<'static>;
type Stmt = ast::Stmt<'static>;

/// A compiled template.
pub(super) struct Compiled {
    pub(super) instructions: Instructions<'static>,
    pub(super) blocks: BTreeMap<&'static str, Instructions<'static>>,
}

/// White space in chat templates, as transformers sets it.
pub(super) const WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true };

/// White space in other templates, as Jinja sets it.
pub(super) const JINJA_WHITESPACE: WhitespaceConfig =
    WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: false, trim_blocks: false };

/// Compiles `source`; errors call it `name`.
///
/// # Errors
/// `SyntaxError` for an invalid template, and for one longer than any in practice.
pub(super) fn compile(
    name: &'static str,
    source: &str,
    whitespace: WhitespaceConfig,
) -> Result<Compiled, Error> {
    if source.len() > limits::CHAT_TEMPLATE_BYTES {
        return Err(too_long(source.len(), "bytes", limits::CHAT_TEMPLATE_BYTES));
    }
    count_tokens(source)?;
    let source = interned(source);
    with_stack(move || {
        let tree = parse(source, name, SyntaxConfig, whitespace)?;
        let mut generator = CodeGenerator::new(name, source);
        generator.compile_stmt(&stmt(&tree));
        let (instructions, blocks) = generator.finish();
        Ok(Compiled { instructions, blocks })
    })
}

/// The variables that a template reads and does not set, in order. It must compile.
///
/// # Errors
/// `SyntaxError`, as [`compile`].
pub(super) fn variables(source: &str) -> Result<BTreeSet<String>, Error> {
    with_stack(|| {
        let environment = Environment::empty();
        let template = environment.template_from_str(source)?;
        Ok(template.undeclared_variables(false).into_iter().collect())
    })
}

/// Runs `work` on a large stack. The parser, the tree and the generator recurse along chained operators, as in `1+1+1`. The
/// number of tokens bounds the depth.
fn with_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().stack_size(limits::CHAT_TEMPLATE_STACK_BYTES);
        let Ok(thread) = thread.spawn_scoped(scope, work) else {
            return Err(Error::new(ErrorKind::InvalidOperation, "no thread to parse it on"));
        };
        thread.join().unwrap_or_else(|panic| {
            let message = crate::guard::message(&*panic).to_owned();
            Err(Error::new(ErrorKind::SyntaxError, message))
        })
    })
}

/// The engine's instructions borrow from the text of the template. The texts are leaked: a process loads few models,
/// each with one template.
fn interned(source: &str) -> &'static str {
    static SOURCES: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut sources = SOURCES.lock().unwrap_or_else(PoisonError::into_inner);
    let sources = sources.get_or_insert_default();
    if let Some(known) = sources.get(source) {
        return known;
    }
    let source: &'static str = Box::leak(Box::<str>::from(source));
    sources.insert(source);
    source
}

/// Statements that span several templates; transformers loads only one.
const OTHER_FILES: [&str; 5] = ["block", "extends", "from", "import", "include"];

/// Rejects templates that are too long or span several files.
fn count_tokens(source: &str) -> Result<(), Error> {
    let (mut all, mut in_tag, mut begins) = (0, 0, false);
    for token in tokenize(source, false, SyntaxConfig, WHITESPACE) {
        let (token, _) = token?;
        match token {
            Token::Ident(name) if begins && OTHER_FILES.contains(&name) => {
                let message = format!("unknown statement {name}");
                return Err(Error::new(ErrorKind::SyntaxError, message));
            }
            Token::VariableStart | Token::BlockStart => in_tag = 0,
            _ => in_tag += 1,
        }
        begins = matches!(token, Token::BlockStart);
        all += 1;
        if in_tag > limits::CHAT_EXPRESSION_TOKENS {
            return Err(too_long(in_tag, "tokens in one tag", limits::CHAT_EXPRESSION_TOKENS));
        }
        if all > limits::CHAT_TEMPLATE_TOKENS {
            return Err(too_long(all, "tokens", limits::CHAT_TEMPLATE_TOKENS));
        }
    }
    Ok(())
}

fn too_long(found: usize, what: &str, limit: usize) -> Error {
    Error::new(
        ErrorKind::SyntaxError,
        format!("the template has {found} {what} or more, expected at most {limit}"),
    )
}

fn spanned<T>(node: T, span: Span) -> ast::Spanned<T> {
    ast::Spanned::new(node, span)
}

fn filter(name: &'static str, expr: Expr, args: Vec<Expr>) -> Expr {
    let span = expr.span();
    let args = args.into_iter().map(ast::CallArg::Pos).collect();
    Expr::Filter(spanned(ast::Filter { name, expr: Some(expr), args }, span))
}

fn stmts(all: &[Stmt]) -> Vec<Stmt> {
    all.iter().map(stmt).collect()
}

fn stmt(node: &Stmt) -> Stmt {
    match node {
        Stmt::Template(t) => {
            Stmt::Template(spanned(ast::Template { children: stmts(&t.children) }, t.span()))
        }
        Stmt::EmitExpr(e) => {
            Stmt::EmitExpr(spanned(ast::EmitExpr { expr: expr(&e.expr) }, e.span()))
        }
        Stmt::EmitRaw(raw) => {
            // Safe, because `autoescape` does not escape the template's own text.
            let value = Value::from_safe_string(raw.raw.to_owned());
            let text = spanned(ast::Const { value }, raw.span());
            Stmt::EmitExpr(spanned(ast::EmitExpr { expr: Expr::Const(text) }, raw.span()))
        }
        Stmt::ForLoop(l) => Stmt::ForLoop(spanned(
            ast::ForLoop {
                target: target(&l.target),
                iter: filter(op::FLAT, expr(&l.iter), Vec::new()),
                filter_expr: l.filter_expr.as_ref().map(expr),
                recursive: l.recursive,
                body: stmts(&l.body),
                else_body: stmts(&l.else_body),
            },
            l.span(),
        )),
        Stmt::IfCond(c) => Stmt::IfCond(spanned(
            ast::IfCond {
                expr: expr(&c.expr),
                true_body: stmts(&c.true_body),
                false_body: stmts(&c.false_body),
            },
            c.span(),
        )),
        Stmt::WithBlock(w) => {
            let assignments = w.assignments.iter().map(|(to, from)| (target(to), value(to, from)));
            let (assignments, body) = (assignments.collect(), stmts(&w.body));
            Stmt::WithBlock(spanned(ast::WithBlock { assignments, body }, w.span()))
        }
        Stmt::Set(s) => {
            let set = ast::Set { target: target(&s.target), expr: value(&s.target, &s.expr) };
            Stmt::Set(spanned(set, s.span()))
        }
        Stmt::SetBlock(s) => Stmt::SetBlock(spanned(
            ast::SetBlock {
                target: target(&s.target),
                filter: s.filter.as_ref().map(expr),
                body: stmts(&s.body),
            },
            s.span(),
        )),
        Stmt::AutoEscape(a) => Stmt::AutoEscape(spanned(
            ast::AutoEscape { enabled: expr(&a.enabled), body: stmts(&a.body) },
            a.span(),
        )),
        Stmt::FilterBlock(f) => Stmt::FilterBlock(spanned(
            ast::FilterBlock { filter: expr(&f.filter), body: stmts(&f.body) },
            f.span(),
        )),
        Stmt::Macro(m) => Stmt::Macro(declaration(m)),
        Stmt::CallBlock(c) => Stmt::CallBlock(spanned(
            ast::CallBlock { call: call(&c.call), macro_decl: declaration(&c.macro_decl) },
            c.span(),
        )),
        // Refused earlier.
        Stmt::Block(_)
        | Stmt::Import(_)
        | Stmt::FromImport(_)
        | Stmt::Extends(_)
        | Stmt::Include(_) => {
            Stmt::Template(spanned(ast::Template { children: Vec::new() }, Span::default()))
        }
        Stmt::Continue(c) => Stmt::Continue(spanned(ast::Continue, c.span())),
        Stmt::Break(b) => Stmt::Break(spanned(ast::Break, b.span())),
        Stmt::Do(d) => Stmt::Do(spanned(ast::Do { call: call(&d.call) }, d.span())),
    }
}

fn declaration(m: &ast::Spanned<ast::Macro<'static>>) -> ast::Spanned<ast::Macro<'static>> {
    let node = ast::Macro {
        name: m.name,
        args: m.args.iter().map(target).collect(),
        defaults: m.defaults.iter().map(expr).collect(),
        body: stmts(&m.body),
    };
    spanned(node, m.span())
}

fn call(c: &ast::Spanned<ast::Call<'static>>) -> ast::Spanned<ast::Call<'static>> {
    let callee = match &c.expr {
        Expr::Var(_) => target(&c.expr),
        other => expr(other),
    };
    // `loop.changed(…)` compares values.
    let compares = matches!(&c.expr, Expr::GetAttr(attr) if attr.name == "changed");
    spanned(ast::Call { expr: callee, args: arguments(&c.args, compares) }, c.span())
}

fn arguments(all: &[ast::CallArg<'static>], deep: bool) -> Vec<ast::CallArg<'static>> {
    use ast::CallArg as Arg;
    let pass = |e: &Expr| if deep { filter(op::DEEP, expr(e), Vec::new()) } else { expr(e) };
    all.iter()
        .map(|arg| match arg {
            Arg::Pos(e) => Arg::Pos(pass(e)),
            Arg::Kwarg(name, e) => Arg::Kwarg(name, pass(e)),
            Arg::PosSplat(e) => Arg::PosSplat(pass(e)),
            Arg::KwargSplat(e) => Arg::KwargSplat(pass(e)),
        })
        .collect()
}

/// The target of an assignment, which must not be wrapped.
fn target(node: &Expr) -> Expr {
    match node {
        Expr::Var(v) => Expr::Var(spanned(ast::Var { id: v.id }, v.span())),
        Expr::List(l) => {
            let items = l.items.iter().map(target).collect();
            Expr::List(spanned(ast::List { items }, l.span()))
        }
        other => expr(other),
    }
}

/// The value assigned to `to`. A namespace cannot hold a namespace: it could come to contain itself.
fn value(to: &Expr, from: &Expr) -> Expr {
    match to {
        Expr::GetAttr(_) => filter(op::ITEM, expr(from), Vec::new()),
        _ => expr(from),
    }
}

fn is_const(node: &Expr) -> bool {
    matches!(node, Expr::Const(_))
}

/// An operand that is read completely.
fn deep(node: &Expr) -> Expr {
    if is_const(node) { expr(node) } else { filter(op::DEEP, expr(node), Vec::new()) }
}

fn expr(node: &Expr) -> Expr {
    let span = node.span();
    match node {
        Expr::Var(_) => target(node),
        Expr::Const(c) => Expr::Const(spanned(ast::Const { value: c.value.clone() }, span)),
        Expr::Slice(s) => {
            let part = |part: &Option<Expr>| part.as_ref().map(expr);
            let slice = ast::Slice {
                expr: filter(op::SLICEABLE, expr(&s.expr), Vec::new()),
                start: part(&s.start),
                stop: part(&s.stop),
                step: part(&s.step),
            };
            filter(op::SLICED, Expr::Slice(spanned(slice, span)), Vec::new())
        }
        Expr::UnaryOp(u) => {
            #[expect(clippy::needless_match, reason = "the kind is no Copy, and no Clone")]
            let op = match u.op {
                ast::UnaryOpKind::Not => ast::UnaryOpKind::Not,
                ast::UnaryOpKind::Neg => ast::UnaryOpKind::Neg,
            };
            Expr::UnaryOp(spanned(ast::UnaryOp { op, expr: expr(&u.expr) }, span))
        }
        Expr::BinOp(b) => binary(b, span),
        Expr::Compare(c) => {
            let ops = c.ops.iter();
            let ops = ops.map(|next| ast::CompareOp { op: next.op, expr: deep(&next.expr) });
            let compare = ast::Compare { expr: deep(&c.expr), ops: ops.collect() };
            Expr::Compare(spanned(compare, span))
        }
        Expr::IfExpr(i) => Expr::IfExpr(spanned(
            ast::IfExpr {
                test_expr: expr(&i.test_expr),
                true_expr: expr(&i.true_expr),
                false_expr: i.false_expr.as_ref().map(expr),
            },
            span,
        )),
        Expr::Filter(f) => Expr::Filter(spanned(
            ast::Filter {
                name: f.name,
                expr: f.expr.as_ref().map(expr),
                args: arguments(&f.args, false),
            },
            span,
        )),
        Expr::Test(t) => {
            let reads = op::DEEP_TESTS.contains(&t.name) && !is_const(&t.expr);
            let expr = if reads { deep(&t.expr) } else { expr(&t.expr) };
            let test = ast::Test { name: t.name, expr, args: arguments(&t.args, reads) };
            Expr::Test(spanned(test, span))
        }
        Expr::GetAttr(a) => {
            Expr::GetAttr(spanned(ast::GetAttr { expr: expr(&a.expr), name: a.name }, span))
        }
        Expr::GetItem(i) => {
            // Indexing a text counts its characters up to the position.
            let named = matches!(&i.subscript_expr, Expr::Const(c) if c.value.as_str().is_some());
            let of = expr(&i.expr);
            let of = if named { of } else { filter(op::INDEXED, of, Vec::new()) };
            let item = ast::GetItem { expr: of, subscript_expr: expr(&i.subscript_expr) };
            Expr::GetItem(spanned(item, span))
        }
        Expr::Call(c) => Expr::Call(call(c)),
        Expr::List(l) => {
            let list = ast::List { items: l.items.iter().map(expr).collect() };
            filter(op::OWN, Expr::List(spanned(list, span)), Vec::new())
        }
        Expr::Map(m) => {
            let keys = m.keys.iter().map(deep).collect();
            let map = ast::Map { keys, values: m.values.iter().map(expr).collect() };
            filter(op::OWN, Expr::Map(spanned(map, span)), Vec::new())
        }
    }
}

fn binary(b: &ast::BinOp<'static>, span: Span) -> Expr {
    use ast::BinOpKind as Op;
    let (left, right) = (&b.left, &b.right);
    let ours = match b.op {
        Op::Concat => Some(op::CONCAT),
        Op::Add => Some(op::ADD),
        Op::Mul => Some(op::MUL),
        // A comparison with a constant, as in `role == 'user'`, reads no more than the constant's length.
        Op::Eq if !is_const(left) && !is_const(right) => Some(op::EQ),
        Op::Ne if !is_const(left) && !is_const(right) => Some(op::NE),
        _ => None,
    };
    if let Some(name) = ours {
        return filter(name, expr(left), vec![expr(right)]);
    }
    let (left, right) = match b.op {
        Op::Lt | Op::Lte | Op::Gt | Op::Gte | Op::In => (deep(left), deep(right)),
        _ => (expr(left), expr(right)),
    };
    Expr::BinOp(spanned(ast::BinOp { op: b.op, left, right }, span))
}
