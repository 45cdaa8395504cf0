package scaling

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"time"
)

//go:embed measured.json
var measuredText []byte

// Measured is what was measured on one machine: what `carebus bench` prints, and what it leaves open.
type Measured struct {
	Machine string             `json:"machine"`
	At      string             `json:"at"`
	Load    string             `json:"loadAverage"` // others used the machine at the same time
	Cores   int                `json:"cores"`
	Rungs   map[string]Machine `json:"rungs"`
	Broker  float64            `json:"brokerRecordsPerSecond"`
}

// Machine is one rung as it was measured.
type Machine struct {
	// Parts are the parts that can be measured alone, in microseconds, by their names in Costs, in lower case.
	Parts map[string]float64 `json:"partsMicros"`
	Cases []Case             `json:"cases"`
}

// Case is one measure beside its baseline, of all processes together; both have taken turns.
type Case struct {
	Processes  int     `json:"processes"`
	Publishers int     `json:"publishers"`
	Batch      int     `json:"batch"`
	PerSecond  float64 `json:"perSecond"`
	Raw        float64 `json:"raw"`
}

// Reference returns what was measured on the machine that docs/scaling.md tells of.
func Reference() (Measured, error) {
	var m Measured
	if err := json.Unmarshal(measuredText, &m); err != nil {
		return m, fmt.Errorf("scaling: measured.json: %w", err)
	}
	return m, nil
}

// Prediction compares a case with the simulation of it.
type Prediction struct {
	Case
	Ratio     float64 // measured: to the baseline
	Predicted float64 // simulated: the same ratio
	Error     float64 // of the prediction: 0.1 is 10 % too high
}

// Costs returns the parts of a rung, with the one that cannot be measured alone, Publish, such that the simulation of the
// first case gives what was measured.
//
// What is compared is always a ratio to the baseline, simulated too: a machine that others slow down slows both.
func (m *Measured) Costs(rung string) (Costs, error) {
	r, ok := m.Rungs[rung]
	if !ok || len(r.Cases) == 0 {
		return Costs{}, fmt.Errorf("scaling: nothing was measured of %q", rung)
	}
	micros := func(name string) time.Duration { return time.Duration(r.Parts[name] * float64(time.Microsecond)) }
	c := Costs{Group: micros("group"), Row: micros("row"), Ends: micros("ends"), Encode: micros("encode"), Turn: micros("turn"), News: micros("news"), Sync: micros("sync"), Read: micros("read"),
		Handle: micros("handle"), Relay: micros("relay"), Broker: micros("broker"), Ack: micros("ack"), RawRow: micros("rawrow")}
	first := r.Cases[0]
	low, high := time.Duration(0), 2*time.Millisecond
	for range 12 {
		c.Publish = (low + high) / 2
		if m.ratio(c, first) > first.PerSecond/first.Raw {
			low = c.Publish
		} else {
			high = c.Publish
		}
	}
	return c, nil
}

// ratio is what the simulation says of a case.
func (m *Measured) ratio(c Costs, k Case) float64 {
	own := Load{Publishers: k.Publishers, Batch: k.Batch, Processes: k.Processes, Cores: m.Cores, Time: 4 * time.Second}
	raw := own
	raw.Raw, raw.Publishers, raw.Batch = true, 1, max(k.Publishers*k.Batch, 1)
	return Simulate(c, own).PerSecond / Simulate(c, raw).PerSecond
}

// Predict simulates the cases of a rung but the first, which the costs were made from.
func (m *Measured) Predict(rung string) ([]Prediction, error) {
	c, err := m.Costs(rung)
	if err != nil {
		return nil, err
	}
	out := []Prediction{}
	for _, k := range m.Rungs[rung].Cases[1:] {
		p := Prediction{Case: k, Ratio: k.PerSecond / k.Raw, Predicted: m.ratio(c, k)}
		p.Error = p.Predicted/p.Ratio - 1
		out = append(out, p)
	}
	return out, nil
}

// StatedError is the largest error of a prediction, as a share of what was measured.
const StatedError = 0.35
