package schema

import (
	"slices"
	"strconv"
	"strings"

	"golang.org/x/mod/semver"
)

// versionProblem tells what is wrong with the form of a version, or "".
func versionProblem(v string) string {
	switch {
	case v == "":
		return "is empty; give MAJOR.MINOR.PATCH"
	case len(v) > 64:
		return "is longer than 64 characters"
	case !semver.IsValid("v" + v):
		return "is not a semantic version; give MAJOR.MINOR.PATCH"
	case semver.Build("v"+v) != "":
		return "has build metadata, which tells no schemas apart"
	case strings.Count(strings.TrimSuffix(v, semver.Prerelease("v"+v)), ".") != 2:
		return "is not complete; give MAJOR.MINOR.PATCH"
	}
	for _, n := range numbers(v) {
		if n < 0 {
			return "has a number that is too large"
		}
	}
	return ""
}

func compareVersions(a, b string) int { return semver.Compare("v"+a, "v"+b) }

func prerelease(v string) bool { return semver.Prerelease("v"+v) != "" }

// numbers returns major, minor and patch; -1 for what is no number of at most nine digits.
func numbers(v string) [3]int {
	core, _, _ := strings.Cut(v, "-")
	out := [3]int{-1, -1, -1}
	for i, part := range strings.SplitN(core, ".", 3) {
		if n, err := strconv.Atoi(part); err == nil && len(part) <= 9 {
			out[i] = n
		}
	}
	return out
}

func major(v string) int { return numbers(v)[0] }

// declaredStep is the step from one version to a later one.
func declaredStep(from, to string) Bump {
	a, b := numbers(from), numbers(to)
	switch {
	case a[0] != b[0]:
		return Major
	case a[1] != b[1]:
		return Minor
	}
	return Patch
}

// stepped is the lowest version that is the step away.
func stepped(from string, step Bump) string {
	n := numbers(from)
	switch step {
	case Major:
		n = [3]int{n[0] + 1, 0, 0}
	case Minor:
		n = [3]int{n[0], n[1] + 1, 0}
	default:
		n[2]++
	}
	return strconv.Itoa(n[0]) + "." + strconv.Itoa(n[1]) + "." + strconv.Itoa(n[2])
}

// nearest returns up to three names that are a few edits away from the wanted one, the nearest first.
func nearest(want string, names []string) []string {
	type scored struct {
		name string
		cost int
	}
	if len(want) > 255 {
		return nil
	}
	var near []scored
	for _, name := range names {
		cost := edits(want, name)
		if strings.HasSuffix(name, "."+want) || strings.HasPrefix(name, want+".") {
			cost = min(cost, 2)
		}
		if cost <= 2+len(want)/5 {
			near = append(near, scored{name, cost})
		}
	}
	slices.SortStableFunc(near, func(a, b scored) int { return a.cost - b.cost })
	var out []string
	for _, n := range near[:min(len(near), 3)] {
		out = append(out, n.name)
	}
	return out
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
