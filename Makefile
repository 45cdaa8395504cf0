# The few things done by hand. Everything that CI does is in .ci/run.

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

.PHONY: test race lint generate demo ci

test: ## all tests
	go test ./...

race: ## the packages with goroutines, under the race detector
	go test -race -short ./bus/... ./eventstore/... .

lint:
	gofmt -l . | (! grep .)
	go vet ./...
	go run $(GOLANGCI) run ./...

generate: ## schemas to Go types
	go generate ./...

demo:
	go run ./cmd/carebus demo

ci:
	bash .ci/run
