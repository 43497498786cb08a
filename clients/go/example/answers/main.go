// Answers a question from files, with citations, by the function `clean` and an index that is kept and asked:
//
//	answers INDEX smollm2 "What outlives the kernel?" notes.md more.md
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"

	"inferd"
	"inferd/inferdv1"
)

func check(err error) {
	if err != nil && err != io.EOF {
		log.Fatalf("%s: %v", inferd.ReasonOf(err), err)
	}
}

func main() {
	if len(os.Args) < 4 {
		log.Fatal("give an index, a model, a question, and files that are not in it yet")
	}
	client, err := inferd.Connect(inferd.Options{}) // to $INFERD_ADDRESS, or to the kernel of this user or host
	check(err)
	ctx, name, indexes := context.Background(), os.Args[1], inferdv1.NewIndexServiceClient(client.Conn())
	adding := &inferdv1.AddDocumentsRequest{Index: name}
	for _, file := range os.Args[4:] {
		bytes, err := os.ReadFile(file)
		check(err)
		made, err := client.Generate(ctx, inferd.Call("clean", map[string]interface{}{"text": string(bytes)}), inferd.RunOptions{})
		check(err)
		text := &inferdv1.IndexDocument_Text{}
		check(json.Unmarshal(made.Pieces[0], &text.Text))
		adding.Documents = append(adding.Documents, &inferdv1.IndexDocument{Id: file, Content: text})
	}
	// One of this name and for the same is taken as it is.
	_, err = indexes.CreateIndex(ctx, &inferdv1.CreateIndexRequest{Spec: &inferdv1.IndexSpec{Name: name}})
	check(err)
	if len(adding.Documents) > 0 {
		added, err := indexes.AddDocuments(ctx, adding)
		for ; err == nil; _, err = added.Recv() { // until all of them are there
		}
		check(err)
	}
	asking := &inferdv1.AnswerQuestionRequest{Query: &inferdv1.IndexQuery{Index: name, Text: os.Args[3]}, Model: os.Args[2]}
	asked, err := indexes.AnswerQuestion(ctx, asking)
	for told := (&inferdv1.AnswerQuestionResponse{}); err == nil; told, err = asked.Recv() {
		fmt.Print(told.GetText())
		for _, each := range told.GetEnded().GetCitations() {
			fmt.Printf("\n[%s %d-%d] %s", each.DocumentId, each.Start, each.End, each.Quote)
		}
	}
	check(err)
}
