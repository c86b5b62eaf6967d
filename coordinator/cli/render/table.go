package render

import (
	"fmt"
	"io"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Column is a column of a table.
type Column struct {
	Name  string
	Right bool // numbers align right
}

// L is a column of words, R one of numbers.
func L(name string) Column { return Column{Name: name} }

// R is a column of numbers.
func R(name string) Column { return Column{Name: name, Right: true} }

// Table prints rows under headings: columns apart by two spaces, no borders, so
// that it can be read, copied and cut. What is empty shows as "-".
func Table(w io.Writer, columns []Column, rows [][]string) {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.Options{}
	style.Box = table.BoxStyle{PaddingRight: "  "}
	style.Format = table.FormatOptions{}
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	head := make(table.Row, len(columns))
	configs := make([]table.ColumnConfig, len(columns))
	for i, c := range columns {
		head[i] = c.Name
		configs[i] = table.ColumnConfig{Number: i + 1, Align: text.AlignLeft, AlignHeader: text.AlignLeft}
		if c.Right {
			configs[i].Align, configs[i].AlignHeader = text.AlignRight, text.AlignRight
		}
	}
	t.AppendHeader(head)
	t.SetColumnConfigs(configs)
	for _, row := range rows {
		cells := make(table.Row, len(row))
		for i, cell := range row {
			if cells[i] = Clean(cell); cell == "" {
				cells[i] = "-"
			}
		}
		t.AppendRow(cells)
	}
	fmt.Fprintln(w, t.Render())
}
