# Everything is built with one profile (release), so that tests and product share what is compiled. What is shipped may be
# built once more, and longer (`make dist`).

T := $(or $(CARGO_TARGET_DIR),target)
HOST = $(shell rustc --print host-tuple)
PLUGINS := console watchdog time_report watch_server system_info node_info monitor_log scripts profiler
FIXTURES := $(filter-out bad_panic_abort,$(notdir $(wildcard tests/fixtures/*)))
HARMS := segv abort exit loop grow fork
CARGO := cargo

BENCH_PLUGINS := echo relay fanout list

.PHONY: build dist fixtures peers test soak bench bench-parts instructions demo lint doc clean

# The daemon and command line, and the plugins that come with it.
build:
	$(CARGO) build --release -p muster $(addprefix -p muster-,$(subst _,-,$(PLUGINS)))
	@$(call install-plugins,$(PLUGINS),release/libmuster_,plugins)

# The program as it is shipped, in dist/: optimised as a whole, and for what it does most. That is seen by running it
# with counters, under the load of `make bench`. Takes ten minutes, and two processors. Plugins stay as `make build` makes
# them, and as anybody's are.
dist: build bench-parts
	@tests/load/profdata.sh >/dev/null
	RUSTFLAGS="$(RUSTFLAGS) -Cprofile-generate" $(CARGO) build --profile dist --target $(HOST) -p muster
	tests/load/train.sh $(abspath $(T))/$(HOST)/dist/muster $(BENCH_PARTS) $(abspath $(T))/dist/training
	RUSTFLAGS="$(RUSTFLAGS) -Cprofile-use=$(abspath $(T))/dist/training/muster.profdata" \
	  $(CARGO) build --profile dist --target $(HOST) -p muster
	install -m 755 $(T)/$(HOST)/dist/muster $(T)/dist/.muster.new && mv $(T)/dist/.muster.new $(T)/dist/muster

# Plugins that exist for the tests: good ones, faulty ones, and some that must be refused; and a server that embeds a
# monitor.
fixtures:
	$(CARGO) build --release $(addprefix -p muster-fixture-,$(subst _,-,$(FIXTURES)))
	$(CARGO) build --release -p muster --example embedded
	$(CARGO) build --profile panic-abort -p muster-fixture-bad-panic-abort
	@for harm in $(HARMS); do \
	  LC_ALL=C sed "s/constructor segv /constructor $$(printf '%-5s' $$harm)/" $(T)/release/libbad_constructor.so \
	    > $(T)/release/libbad_constructor_$$harm.so || exit 1; \
	done
	@$(call install-plugins,$(FIXTURES) $(addprefix bad_constructor_,$(HARMS)),release/lib,fixtures)
	@$(call install-plugins,bad_panic_abort,panic-abort/lib,fixtures)

# The original programs, as peers for the tests.
peers:
	tests/node/install.sh

test: build fixtures peers
	$(CARGO) test --release --workspace --exclude muster-tests
	$(CARGO) test --release -p muster-tests

# A plugin is replaced 10,000 times under traffic; MUSTER_SOAK=N for another number.
soak: build fixtures
	$(CARGO) test --release -p muster-tests --test it reload::row_9_a_plugin_is_replaced_10_000 -- --ignored --nocapture

# Load on the master, beside the original's where Node is there: one table, also in host/benches/RESULTS.md.
# `make bench BENCHED=release` measures what `make build` makes; `cargo bench -p muster` measures the parts.
BENCHED := dist
bench: $(if $(filter dist,$(BENCHED)),dist,build) bench-parts
	tests/load/bench.sh $(abspath $(T))/$(BENCHED)/muster $(BENCH_PARTS)

# The plugins of the load cells, and the generator.
BENCH_PARTS = $(abspath $(T))/bench/plugins $(abspath $(T))/bench/load/release/muster-load
bench-parts:
	$(CARGO) build --release -p muster-time-report $(addprefix -p muster-fixture-,$(BENCH_PLUGINS))
	@$(call install-plugins,$(BENCH_PLUGINS),release/lib,bench/plugins)
	@$(call install-plugins,time_report,release/libmuster_,bench/plugins)
	cd tests/load && CARGO_TARGET_DIR=$(abspath $(T))/bench/load $(CARGO) build --release --locked

# What messages cost in instructions, which no other load on the machine changes. Needs valgrind.
instructions:
	$(CARGO) install --quiet --root $(abspath $(T))/bench --version 0.20.0 gungraun-runner
	GUNGRAUN_RUNNER=$(abspath $(T))/bench/bin/gungraun-runner \
	  $(CARGO) bench -p muster --features instructions --bench instructions

# A master, three monitors and the plugins in one terminal.
demo: build
	@$(T)/release/muster demo --plugins $(T)/plugins

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --features muster-plugin-api/testing

clean:
	$(CARGO) clean

# Puts libraries into place by renaming: a daemon may be watching the directory. One that did not change is left alone.
# Whatever the umask, a group may not write what a daemon loads.
define install-plugins
mkdir -p $(T)/$(3); \
for name in $(1); do \
  cmp -s $(T)/$(2)$$name.so $(T)/$(3)/$$name.so || { \
    install -m 755 $(T)/$(2)$$name.so $(T)/$(3)/.$$name.so.new && mv $(T)/$(3)/.$$name.so.new $(T)/$(3)/$$name.so; } || exit 1; \
done
endef
