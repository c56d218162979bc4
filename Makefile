.DEFAULT_GOAL := help
.PHONY: help demo test check proof fuzz mutation fast-test paper-table paper-sweeps generated-table ablations test-spark35 spark-env format clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PIP := $(BIN)/python $(INSTALL)
SPARK35 := .venv35
PROOFS := simulation machine kills races faults corruption secrets soak spark_kills
# What a job needs beside Spark, which a cluster has; the same as in the Dockerfile.
JOB_NEEDS := numpy faiss-cpu onnxruntime tokenizers boto3 pyarrow pandas scipy click jinja2 markupsafe threadpoolctl tqdm cryptography
# The comparisons of docs/distillation.md: where they read and write, and what they give to `indexer compare`.
TABLE := docs/examples/esci_run/comparison
TABLE_CONFIG := docs/examples/esci.toml
TABLE_DATE := 2026-11-20
TABLE_JOBS := purchase_gram npmi_pairs taxonomy_labels hard_negatives
TABLE_METHODS := direct,kd-soft,hiss,kd-boost,default,dssm:1,kd-dssm:1,cross-margin:1,cross-logits:1,augmented:1,berm:1,static:1,listwise:1,cosent:1
TABLE_SEEDS := --folds 5 --seeds 2
TABLE_SWEEPS := --sweep 'kd-boost:teachers=[["all-MiniLM-L6-v2", "cross:all-MiniLM-L6-v2"]]'
TABLE_OPTIONS :=
LARGE := demo-shop-large
FUZZ_SECONDS := 600
ABLATIONS := --sweep 'kd-boost:gamma=[0, 0.25, 0.5, 0.75, 0.9, 1]' --sweep 'kd-boost:dissimilar_share=[0, 0.5]' \
	--sweep 'kd-boost:similar_share=[0, 0.5]'
define COMPARE
for job in $(TABLE_JOBS); do $(BIN)/python -m jobs.$$job --config $(TABLE_CONFIG) --run-date $(TABLE_DATE) || exit; done
$(BIN)/indexer compare --config $(TABLE_CONFIG) --run-date $(TABLE_DATE) --out $(TABLE) --methods $(TABLE_METHODS) \
	--baseline direct $(TABLE_SEEDS) $(TABLE_SWEEPS) --set distill.validation_share=0.1 $(TABLE_OPTIONS)
endef

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-16s %s\n", $$1, $$2}'

demo: $(VENV)/demo ## Run the whole nightly job on a generated shop and search the release
	$(BIN)/indexer demo --folder demo-shop

test: check ## Run every check, every test, and 20,000 schedules of the release protocol
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
	$(BIN)/python -m tests.proof.simulation --full

check: $(VENV)/test ## Lint, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast-test: check ## Run the tests that need no Java, no training and no minutes
	$(BIN)/python -m pytest tests/fast

paper-table: $(VENV)/demo ## Compare every method on ESCI: hours, and goes on where it was stopped
	$(COMPARE)

paper-sweeps: TABLE_METHODS := direct,kd-boost
paper-sweeps: TABLE_SWEEPS += $(ABLATIONS) --sweep 'augmented:scored_share=[1, 2, 5, 10, 20]'
paper-sweeps: $(VENV)/demo ## The table with gamma, taxonomy, similar queries and the number of scored pairs varied
	$(COMPARE)

generated-table: TABLE_METHODS := direct,kd-soft,hiss,kd-boost,default
generated-table: TABLE_SWEEPS :=
generated-table: $(VENV)/demo ## Compare the paper's methods on a generated shop of 50,000 labels: an hour or two
	$(BIN)/indexer demo --size large --shop-only --folder $(LARGE)
	$(COMPARE)

ablations: TABLE_METHODS := direct,kd-boost,default
ablations: TABLE_SWEEPS += $(ABLATIONS) --sweep 'augmented:scored_share=[1, 2, 5, 10]'
ablations: $(VENV)/demo ## Vary gamma, losses, teachers and scored pairs on a generated shop of 13,000 labels: an hour or two
	$(BIN)/indexer demo --size medium --shop-only --folder demo-shop-medium
	$(COMPARE)

generated-table: TABLE := $(LARGE)/comparison
generated-table: TABLE_CONFIG := $(LARGE)/shop.toml
ablations: TABLE := demo-shop-medium/comparison
ablations: TABLE_CONFIG := demo-shop-medium/shop.toml
generated-table ablations: TABLE_DATE := 2026-01-07
generated-table ablations: TABLE_SEEDS := --folds 5 --test-folds 1 --seeds 1

proof: $(VENV)/test ## Run the proofs of the release protocol in full size, a line each: a few hours
	for proof in $(PROOFS); do $(BIN)/python -m tests.proof.$$proof --full || exit; done

fuzz: $(VENV)/test ## Fuzz every reader of bytes from outside, FUZZ_SECONDS each: 80 minutes
	$(PIP) --editable '.[fuzz]'
	$(BIN)/python -m tests.proof.fuzz all --seconds $(FUZZ_SECONDS)

mutation: $(VENV)/test ## Change the release code in 2,000 places: tests must notice nine tenths
	$(PIP) --editable '.[mutation]'
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results
	$(BIN)/python -m tests.proof.mutation

test-spark35: $(VENV)/test $(SPARK35)/test ## Run the tests of the Spark jobs on Spark 3.5
	mkdir -p $(SPARK35)/conf
	echo spark.jars $(CURDIR)/$(VENV)/lib/python*/site-packages/pyspark/jars/icu4j-*.jar > $(SPARK35)/conf/spark-defaults.conf
	SPARK_CONF_DIR=$(CURDIR)/$(SPARK35)/conf $(SPARK35)/bin/python -m pytest tests/jvm

spark-env: dist/spark-env.tar.gz ## Pack the Python environment of a cluster's executors

format: $(VENV)/test ## Put the code into its one form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what make has built
	rm -rf $(VENV) $(SPARK35) demo-shop demo-shop-large demo-shop-medium build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache mutants

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; name one by: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo: $(BIN)/python setup.cfg constraints.txt
	$(PIP) --editable '.[all]'
	@touch $@

$(VENV)/test: $(BIN)/python setup.cfg constraints.txt
	$(PIP) --editable '.[test]'
	@$(PIP) hnswlib || echo "hnswlib was not compiled (no C++ compiler?): tests that open its files are skipped"
	@touch $@ $(VENV)/demo

# The constraints name Spark 4 and the py4j that belongs to it.
$(SPARK35)/test: setup.cfg constraints.txt
	$(PYTHON) -m venv $(SPARK35)
	grep -vE '^(pyspark|py4j)==' constraints.txt > $(SPARK35)/constraints.txt
	$(SPARK35)/bin/python -m pip install --quiet --constraint $(SPARK35)/constraints.txt \
		pyspark==3.5.9 $(JOB_NEEDS) pytest hypothesis scikit-learn 'moto[server]'
	$(SPARK35)/bin/python $(INSTALL) --no-deps --editable .
	@touch $@

dist/spark-env.tar.gz: setup.cfg constraints.txt $(shell find indexer spark jobs -name '*.py')
	rm -rf build dist
	$(PYTHON) -m venv dist/spark-env
	dist/spark-env/bin/python $(INSTALL) $(JOB_NEEDS) venv-pack
	dist/spark-env/bin/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	dist/spark-env/bin/python $(INSTALL) --no-deps --force-reinstall dist/nightly_semantic_index-*.whl
	dist/spark-env/bin/venv-pack --quiet --prefix dist/spark-env --force --output $@
