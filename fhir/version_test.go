package fhir_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/carebus/carebus/fhir"
)

func stamped(resource, at string) string {
	return strings.Replace(resource, "{", `{"meta":{"lastUpdated":"`+at+`"},`, 1)
}

// TestPatientVersions: the same id with other content is a change, whatever the order of appearance.
func TestPatientVersions(t *testing.T) {
	v1 := stamped(ann, "2020-01-01T00:00:00Z")
	v2 := stamped(strings.Replace(ann, "Oak", "Pine", 1), "2021-01-01T00:00:00Z")
	v3 := stamped(strings.Replace(ann, `"name":[{"family":"Oak"`, `"address":[{"line":["1 Main St"],"city":"Salem","state":"Massachusetts","postalCode":"01970"}],"telecom":[{"system":"phone","value":"555"}],"deceasedDateTime":"2022-01-01","name":[{"family":"Pine"`, 1), "2022-02-01T00:00:00Z")
	want := []string{"patient.record.created", "patient.demographics.changed", "patient.address.changed", "patient.contact.changed", "patient.record.updated"}
	var ids []string
	for _, order := range [][]string{{v1, v2, v3}, {v3, v2, v1}, {v2, v3, v1, v2, v1}} {
		items, rep := importFiles(t, files{"a.ndjson": strings.Join(order, "\n") + "\n"})
		if !slices.Equal(types(items), want) {
			t.Fatalf("events %v, want %v", types(items), want)
		}
		if rep.Total.Duplicates != int64(len(order)-3) {
			t.Errorf("duplicates %d of %d", rep.Total.Duplicates, len(order))
		}
		var got []string
		last := int64(-1 << 62)
		for _, it := range items {
			got = append(got, it.Event.ID)
			if it.Event.Type != "patient.record.updated" && it.Event.Timestamp < last {
				t.Errorf("%s goes back in time", it.Event.Type)
			}
			last = it.Event.Timestamp
		}
		if ids == nil {
			ids = got
		}
		if !slices.Equal(ids, got) {
			t.Errorf("ids depend on the order of versions")
		}
	}
}

// TestHistoryOfPrescription: a history bundle comes newest first.
func TestHistoryOfPrescription(t *testing.T) {
	v := func(status, at string) string {
		return stamped(strings.Replace(request(`"x":1`, coded), `"active"`, `"`+status+`"`, 1), at)
	}
	history := func(versions ...string) files {
		return files{"a.json": `{"resourceType":"Bundle","type":"history","entry":[{"resource":` + strings.Join(versions, `},{"resource":`) + `}]}`}
	}
	cases := []struct {
		name string
		in   files
		want []string
	}{
		{"stopped is no cancellation", history(v("stopped", "2020-01-03T00:00:00Z")), []string{"medication.prescription.created"}},
		{"cancelled", history(v("cancelled", "2020-01-03T00:00:00Z"), v("active", "2020-01-01T00:00:00Z")), []string{"medication.prescription.created", "medication.prescription.cancelled"}},
		{"cancelled at once", history(v("cancelled", "2020-01-03T00:00:00Z")), []string{"medication.prescription.created", "medication.prescription.cancelled"}},
		{"draft first", history(v("active", "2020-01-03T00:00:00Z"), v("draft", "2020-01-01T00:00:00Z")), []string{"medication.prescription.created"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if items, _ := importFiles(t, c.in); !slices.Equal(types(items), c.want) {
				t.Errorf("events %v, want %v", types(items), c.want)
			}
		})
	}
}

// TestExactDuplicates: the same resource in two folders is one event and one duplicate.
func TestExactDuplicates(t *testing.T) {
	noisy := strings.Replace(ann, "{", `{"text":{"status":"generated","div":"x"},"meta":{"versionId":"4","tag":[]},`, 1)
	items, rep := importFiles(t, files{"a/p.json": ann, "b/p.json": ann, "c/p.ndjson": noisy + "\n"})
	if len(items) != 1 || rep.Total.Duplicates != 2 {
		t.Errorf("%d events, %d duplicates; narrative and meta are no content", len(items), rep.Total.Duplicates)
	}
}

// TestSpilledVersions: versions survive the move of everything to disk.
func TestSpilledVersions(t *testing.T) {
	var lines []string
	for v := range 3 {
		for i := range 500 {
			p := strings.NewReplacer(`"p1"`, fmt.Sprintf(`"p%d"`, i), "Oak", fmt.Sprintf("Oak%c", 'A'+v)).Replace(ann)
			lines = append(lines, stamped(p, fmt.Sprintf("202%d-01-01T00:00:00Z", v)))
		}
	}
	in := files{"a.ndjson": strings.Join(lines, "\n") + "\n"}
	dir := write(t, in)
	large, _ := importAll(t, nil, dir)
	small, rep := importAll(t, &fhir.Options{MemoryLimit: 1}, dir)
	if rep.Events["patient.record.created"] != 500 || rep.Events["patient.demographics.changed"] != 1000 {
		t.Errorf("events %v", rep.Events)
	}
	if fmt.Sprint(large) != fmt.Sprint(small) {
		t.Error("the memory limit changes the events")
	}
}
