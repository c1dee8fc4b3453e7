//! One run: an engine, its limits, and what came out.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use muster_beneath::Root;
use muster_plugin_api::{Body, serde_json::json};
use rquickjs::{
    CatchResultExt, CaughtError, Context, Ctx, Exception, Function, Object, Runtime, Value, context::EvalOptions,
};

use crate::World;

/// Enough for deep recursion in a script, and a fraction of what the module's thread has.
const STACK: usize = 512 << 10;
/// What one run may print: it ends up in the daemon's log.
const LOG_LINES: u32 = 100;
const LOG_LINE: usize = 1024;
/// What `fs` reads at a time.
const LARGEST_FILE: u64 = 4 << 20;

const PRELUDE: &str = include_str!("prelude.js");

/// What one run may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// By the clock.
    pub time: Duration,
    /// In bytes, the engine included.
    pub memory: usize,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// With this value: JSON of [`run`], text of [`evaluate`].
    Value(Body),
    /// [`run`]: the script assigned nothing to `result`, or something that counts as false.
    Nothing,
    /// With an exception: its text, and where it happened.
    Threw {
        /// As `String(exception)` prints it.
        text: String,
        /// Text and stack.
        stack: String,
    },
    /// It took longer than it may, and was ended.
    TimedOut,
    /// The engine could not be started within the limits.
    Failed(String),
}

/// Runs a script, which leaves its answer in the global `result`.
pub fn run(world: World, limits: Limits, script: &str) -> Outcome {
    engine(world, limits, |ctx, _| {
        ctx.eval_with_options::<Value<'_>, _>(script, options("script"))?;
        let result: Value<'_> = ctx.globals().get("result")?;
        let truth: Function<'_> = ctx.eval("Boolean")?;
        if !truth.call::<_, bool>((result.clone(),))? {
            return Ok(Outcome::Nothing);
        }
        // A function, say, has no JSON: then there is no body, as with the original.
        let json = ctx.json_stringify(result)?.map(|json| json.to_string()).transpose()?;
        Ok(json.map_or(Outcome::Value(Body::ABSENT), |json| value(Body::raw(json))))
    })
}

/// Evaluates an expression; the value is its text, as Node's `util.inspect` prints it.
pub fn evaluate(world: World, limits: Limits, expression: &str) -> Outcome {
    engine(world, limits, |ctx, inspect| {
        // As in the original, whose lines and columns these are.
        let result: Value<'_> = ctx.eval_with_options(format!("result = {expression}"), options("myApp.vm"))?;
        let text: String = inspect.call((result,))?;
        Ok(Outcome::Value(Body::text(&text)))
    })
}

fn value(body: Result<Body, muster_plugin_api::ModuleError>) -> Outcome {
    body.map_or_else(|error| Outcome::Failed(error.to_string()), Outcome::Value)
}

fn options(name: &str) -> EvalOptions {
    let mut options = EvalOptions::default();
    // `result = …` without a declaration is how these scripts answer.
    options.strict = false;
    options.backtrace_barrier = true;
    options.filename = Some(name.to_owned());
    options
}

fn engine(
    world: World,
    limits: Limits,
    work: impl for<'js> FnOnce(&Ctx<'js>, Function<'js>) -> rquickjs::Result<Outcome>,
) -> Outcome {
    let failed = |error: rquickjs::Error| Outcome::Failed(format!("the script engine does not start: {error}"));
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return failed(error),
    };
    runtime.set_memory_limit(limits.memory);
    runtime.set_max_stack_size(STACK);
    let (until, timed_out) = (Instant::now() + limits.time, Rc::new(Cell::new(false)));
    let seen = timed_out.clone();
    // Once over, always over: what a script does in `finally` and in getters is ended as well.
    runtime.set_interrupt_handler(Some(Box::new(move || {
        seen.set(seen.get() || Instant::now() >= until);
        seen.get()
    })));
    let context = match Context::full(&runtime) {
        Ok(context) => context,
        Err(error) => return failed(error),
    };
    let outcome = context.with(|ctx| {
        let worked = install(&ctx, world).and_then(|inspect| work(&ctx, inspect));
        worked.catch(&ctx).unwrap_or_else(|error| threw(&error))
    });
    if timed_out.get() { Outcome::TimedOut } else { outcome }
}

/// Puts the world into the engine, and returns `inspect`.
fn install<'js>(ctx: &Ctx<'js>, world: World) -> rquickjs::Result<Function<'js>> {
    let World { facts, settings, capabilities, log } = world;
    let switched_on = json!({ "fs": capabilities.fs.is_some(), "require": capabilities.require });
    let host = Object::new(ctx.clone())?;
    let (get, set) = (settings.get, settings.set);
    host.set(
        "get",
        Function::new(ctx.clone(), move |key: String| {
            let value = get(&key);
            (!value.is_absent()).then(|| value.as_str().to_owned())
        })?,
    )?;
    host.set(
        "set",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, key: String, json: String| match Body::raw(json) {
            Ok(value) => {
                set(&key, value);
                Ok(())
            }
            Err(error) => Err(Exception::throw_type(&ctx, error.message())),
        })?,
    )?;
    let lines = Cell::new(0);
    host.set(
        "log",
        Function::new(ctx.clone(), move |line: String| {
            lines.set(lines.get() + 1);
            if lines.get() <= LOG_LINES {
                (log.0)(&line[..line.floor_char_boundary(LOG_LINE)]);
            }
        })?,
    )?;
    if let Some(directory) = capabilities.fs {
        install_files(ctx, &host, directory)?;
    }
    let install: Function<'js> = ctx.eval(PRELUDE)?;
    let facts = ctx.json_parse(facts.to_string())?;
    install.call((host, facts, ctx.json_parse(switched_on.to_string())?))
}

fn install_files<'js>(ctx: &Ctx<'js>, host: &Object<'js>, directory: String) -> rquickjs::Result<()> {
    let directory: Rc<str> = directory.into();
    let told = |ctx: &Ctx<'_>, name: &str, error: &std::io::Error| {
        Exception::throw_message(ctx, &format!("{error}: '{name}'"))
    };
    let root = directory.clone();
    host.set(
        "readFile",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, name: String| {
            Root::open(&*root)
                .and_then(|root| root.read(&name, LARGEST_FILE))
                .map_err(|error| told(&ctx, &name, &error))
        })?,
    )?;
    let root = directory.clone();
    host.set(
        "writeFile",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>, name: String, text: String| {
            let written = Root::open(&*root).and_then(|root| root.replace(&name, text.as_bytes()));
            written.map_err(|error| told(&ctx, &name, &error))
        })?,
    )?;
    let root = directory.clone();
    host.set(
        "readDirectory",
        Function::new(ctx.clone(), move |ctx: Ctx<'_>| {
            let names = Root::open(&*root).and_then(|root| root.names());
            names.map(|names| json!(names).to_string()).map_err(|error| told(&ctx, ".", &error))
        })?,
    )?;
    host.set(
        "exists",
        Function::new(ctx.clone(), move |name: String| {
            Root::open(&*directory).and_then(|root| root.file(&name)).is_ok()
        })?,
    )
}

fn threw(error: &CaughtError<'_>) -> Outcome {
    match error {
        CaughtError::Exception(exception) => {
            let object = exception.as_object();
            let name = object.get::<_, String>("name").unwrap_or_else(|_| "Error".to_owned());
            let message = exception.message().unwrap_or_default();
            let text = if message.is_empty() { name } else { format!("{name}: {message}") };
            let stack = format!("{text}\n{}", exception.stack().unwrap_or_default());
            Outcome::Threw { stack: stack.trim_end().to_owned(), text }
        }
        CaughtError::Value(value) => {
            let text = value.as_string().and_then(|text| text.to_string().ok());
            let text = text.unwrap_or_else(|| format!("{value:?}"));
            Outcome::Threw { stack: text.clone(), text }
        }
        CaughtError::Error(error) => Outcome::Failed(error.to_string()),
    }
}

#[cfg(test)]
mod tests;
