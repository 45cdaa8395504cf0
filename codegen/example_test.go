package codegen_test

import (
	"fmt"
	"log"
	"slices"
	"strings"

	"github.com/carebus/carebus/codegen"
	"github.com/carebus/carebus/schema"
)

// Types of a customer's own events; Write puts the files into a folder.
func ExampleTypeScript() {
	types := []schema.Document{{Type: "lab.result.received", Version: "1.0.0", Schema: []byte(`{
		"title": "Result received", "description": "A laboratory reported a result.", "type": "object", "required": ["resultId"],
		"properties": {
			"resultId":   {"type": "string", "description": "Our identifier of the result."},
			"flag":       {"type": "string", "enum": ["high", "low"], "x-extensible-enum": true},
			"receivedAt": {"type": "string", "format": "date-time"}
		}}`)}}
	files, err := codegen.TypeScript(types, nil)
	if err != nil {
		log.Fatal(err)
	}
	names := []string{}
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Println(names)
	_, text, _ := strings.Cut(string(files["types/lab.ts"]), "*/\n")
	fmt.Print(text)
	// Output:
	// [client.ts envelope.ts events.ts index.ts types/lab.ts]
	// export interface ResultReceivedV1 {
	//   /** Our identifier of the result. */
	//   resultId: string;
	//   flag?: "high" | "low" | (string & {});
	//   /** Format: date-time, as in 2026-01-31T09:30:00Z. */
	//   receivedAt?: string;
	// }
}
