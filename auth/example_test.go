package auth_test

import (
	"fmt"
	"net/http"

	"github.com/carebus/carebus/auth"
)

func Example() {
	token, hash := auth.NewToken() // the token goes to the pharmacy, its hash into the policy file
	door, err := auth.Parse([]byte(`
principals:
  - name: pharmacy-service
    tokens: ["` + hash + `"]
    publish: [medication.prescription.filled]
    subscribe: ["medication.**"]
`))
	if err != nil {
		fmt.Println(err)
		return
	}
	request, err := http.NewRequest(http.MethodGet, "/v1/live", nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	request.Header.Set("Authorization", "Bearer "+token)
	p, err := door.Authenticate(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Name, p.May(auth.Publish, "medication.prescription.filled"), p.May(auth.Publish, "patient.enrolled"))
	// Output: pharmacy-service true false
}
