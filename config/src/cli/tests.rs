//! The command line and its help.

use clap::{CommandFactory as _, Parser as _};

use super::{Cli, Command};

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_subcommand_has_an_example_in_its_help() {
    fn check(command: &clap::Command) {
        let help = command.clone().render_help().to_string();
        assert!(help.contains("Example"), "{help}");
        command.get_subcommands().filter(|command| command.get_name() != "help").for_each(check);
    }
    check(&Cli::command());
}

#[test]
fn subcommands_are_those_of_the_documentation() {
    let command = Cli::command();
    let names: Vec<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let documented = [
        "serve",
        "demo",
        "feed",
        "pub",
        "sub",
        "topics",
        "stats",
        "dead",
        "fsck",
        "export",
        "import",
        "bench",
        "config",
        "completions",
        "man",
    ];
    assert_eq!(names, documented);
}

#[test]
fn help_names_only_commands_of_this_build() {
    let help = Cli::command().render_help().to_string();
    for (name, built) in [("demo", super::demo::BUILT), ("feed", super::feed::BUILT), ("bench", super::bench::BUILT)] {
        let listed = help.lines().any(|line| line.starts_with(&format!("  {name} ")));
        let shown = help.contains(&format!("herald {name} "));
        assert_eq!(listed, built, "{name}: {help}");
        assert!(built || !shown, "{name}: {help}");
    }
}

#[test]
fn commands_find_the_listener_of_an_unconfigured_broker() {
    use crate::registry::{Registry, Seam};

    let registry = Registry::global();
    let Some(default) = registry.default_transport() else { return };
    let kind = registry.kinds(Seam::Transport).into_iter().find(|kind| kind.kind == default).unwrap();
    let default_of = |name| {
        let key = kind.keys.iter().find(|key| key.name == name)?;
        key.default_value().and_then(|value| value.as_str().map(str::to_owned))
    };
    let listen = default_of("listen").expect("a transport listens somewhere");
    let expected = match default_of("path") {
        Some(path) => format!("{default}://{listen}{path}"),
        None => listen,
    };
    assert_eq!(super::remote::DEFAULT_SERVER, expected);
    assert!(Cli::command().render_help().to_string().contains(&expected));
}

#[test]
fn the_commands_in_the_documentation_parse() {
    for line in [
        "herald serve",
        "herald serve --config herald.toml --set storage.kind=sled --set a.b=c",
        "herald demo",
        "herald demo --data dir --port 0 --feed-port 0 --rate 2.5 --panic-every 7",
        "herald demo --mongodb mongodb://127.0.0.1:27017/demo?replicaSet=rs0",
        "herald feed --listen 127.0.0.1:4000 --rate 5 --panic-every 10 --file a.json --file b.json --seed 3",
        "herald pub tweets {} --server host:1 --token t",
        "herald pub tweets -",
        "herald pub tweets - --json",
        "herald sub tweets users --name mine --prefetch 10 --no-ack --count 5 --connections 2",
        "herald sub tweets --server tcp://host:1 --token t",
        "herald topics --json",
        "herald stats",
        "herald stats tweets --json",
        "herald dead list tweets",
        "herald dead list tweets -n 5 --json --subscription dead --dead-letter grave",
        "herald dead list tweets --after 0:17",
        "herald dead list tweets --all",
        "herald dead redrive tweets -n 5",
        "herald dead purge tweets",
        "herald fsck",
        "herald fsck --repair --json --config herald.toml --set storage.path=data",
        "herald export",
        "herald export tweets --set storage.kind=sled",
        "herald import backup.jsonl",
        "herald import - --json --set storage.path=new",
        "herald bench",
        "herald bench publish work --runs 5 --json",
        "herald bench work --prefetch 1,256 --durability always,interval --storage sled --dir /var/tmp",
        "herald bench latency --rate 2.5 --plot latency.svg --priorities -3..3",
        "herald bench fan-out --subscriptions 1,1000 --events 100 --size 512 --publishers 2 --window 16",
        "herald bench backlog --server 127.0.0.1:8000 --token t --pid 1",
        "herald config check --config herald.toml",
        "herald config show --set a=b",
        "herald config init",
        "herald config init herald.toml --force",
        "herald completions bash",
        "herald man",
        "herald man --dir pages",
    ] {
        assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
    }
}

#[test]
fn wrong_usage_is_status_2() {
    for line in [
        "herald",
        "herald serv",
        "herald pub tweets",
        "herald sub",
        "herald sub t --prefetch 0",
        "herald sub t --prefetch 65536",
        "herald sub t --count 0",
        "herald sub t --connections 0",
        "herald demo --port 70000",
        "herald fsck data",
        "herald export a b",
        "herald import",
        "herald bench publishing",
        "herald bench work --prefetch 0",
        "herald bench latency --rate 0",
        "herald bench --priorities 6..0",
        "herald bench --durability maybe",
        "herald bench --events 0",
        "herald bench --token t",
        "herald bench --server a:1 --storage sled",
        "herald config init --force",
        "herald completions tcsh",
    ] {
        let error = parse(line).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    assert_eq!(parse("herald --help").expect_err("help").exit_code(), 0);
    assert_eq!(parse("herald --version").expect_err("version").exit_code(), 0);
}

#[test]
fn the_server_is_the_default_address_unless_said_otherwise() {
    // The environment of the test process applies too.
    if std::env::var_os("HERALD_SERVER").is_none() {
        let Command::Topics(args) = parse("herald topics").expect("it parses").command else {
            panic!("another command")
        };
        assert!(format!("{args:?}").contains(super::remote::DEFAULT_SERVER), "{args:?}");
    }
}
