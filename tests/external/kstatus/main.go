// Reads objects as JSON, one after another, and prints how kstatus finds each, a line for each.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

func main() {
	log.SetFlags(0)
	objects := json.NewDecoder(os.Stdin)
	for {
		var text json.RawMessage
		if err := objects.Decode(&text); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			log.Fatalf("not JSON: %v", err)
		}
		// It knows whole numbers from others, which kstatus insists on.
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(text); err != nil {
			log.Fatalf("not an object: %v", err)
		}
		found, err := status.Compute(&object)
		if err != nil {
			log.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
		}
		fmt.Println(found.Status)
	}
}
